"""Measures the method on the embedded world, whose truth is known."""
