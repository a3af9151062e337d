"""How well a reward model orders candidates, beside baselines that were computed in the same run."""
