"""How well a reward model orders candidates, compared with baselines computed in the same run."""
