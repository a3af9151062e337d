"""Datasets that say which of two candidates is better, judged by cycle score or by people: one file for each layout."""
