"""Preference data for image-text alignment without human labels, by cycle consistency."""
