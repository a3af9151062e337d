"""How each of the tiny models is trained: one file per kind of model, over one loop and one source of data."""
