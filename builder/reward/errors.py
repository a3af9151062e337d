"""What can be wrong with what a reward model is given."""

from cyclepref.schemas.errors import CyclePrefError


class RewardError(CyclePrefError, ValueError):
    """A model, a setting or an argument that a reward cannot be computed with."""


class WrongType(CyclePrefError, TypeError):
    """An argument that is neither an image nor a text, where one must be."""


class ImageNotFound(CyclePrefError, FileNotFoundError):
    """A path without a file."""
