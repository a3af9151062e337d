"""Reward models released by others: converting and loading their checkpoints with current libraries."""
