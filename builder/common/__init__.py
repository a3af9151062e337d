"""What knows nothing of preference data: files that nobody trusts, pictures, progress, stopping, Markdown."""
