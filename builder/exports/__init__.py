"""The same pairs in the layouts that trainers read, a file for each family of them; export.py lists the formats."""
