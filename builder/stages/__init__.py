"""What a build does, stage by stage, and the accounting of every row."""
