"""How CyclePref works: one file per step, in flow order (see README.md)."""

__version__ = "0.1.0"
