"""Pairs in the layouts that trainers read, one file for each family of trainers; formats.py lists the formats."""
