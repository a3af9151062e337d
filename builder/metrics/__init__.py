"""Metrics that compare an input with its reconstruction: SBERT for texts, LPIPS for images."""
