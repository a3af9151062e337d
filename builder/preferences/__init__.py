"""Preference pairs read back: from our datasets, from CyclePrefDB's, and from other people's."""
