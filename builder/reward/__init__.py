"""The reward model: training on cycle-consistency preferences, scoring, evaluation."""
