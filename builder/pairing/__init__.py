"""From similarities to cycle scores to preference pairs: no model, no Ray, no file."""
