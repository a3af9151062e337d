"""Blind labelling of a run's pairs by people, and what it says."""
