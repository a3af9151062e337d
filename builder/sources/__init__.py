"""Where inputs come from: one file for each `inputs.source` of a recipe."""
