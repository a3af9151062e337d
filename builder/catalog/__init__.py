"""From a name in a recipe to the settings, weights and fingerprint of a model or metric."""
