"""The training of the tiny models: one file per kind of model, with a common loop and source of data."""
