"""A run as a page for people, two runs side by side, and a blind audit of its pairs."""
