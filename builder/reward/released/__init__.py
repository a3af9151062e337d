"""Checkpoints that others have released, on today's libraries."""
