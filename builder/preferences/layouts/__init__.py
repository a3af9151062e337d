"""Datasets that say which of two candidates is better, by cycle score or by people, in the layouts they come in."""
