"""The reward model: its training on cycle-consistency preferences, its scores, its evaluation."""
