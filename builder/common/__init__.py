"""Helpers that know nothing about preference data: untrusted files, pictures, progress, stopping, Markdown."""
