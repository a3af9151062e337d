"""The embedded world: scenes whose truth is known exactly, and tiny trained models of real architectures."""
