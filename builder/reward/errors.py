"""Errors of the reward model."""

from cyclepref.schemas.errors import CyclePrefError


class RewardError(CyclePrefError, ValueError):
    """A model, setting or argument with which no reward can be computed."""


class WrongType(CyclePrefError, TypeError):
    """An argument of the wrong type, where an image or a text is needed."""


class ImageNotFound(CyclePrefError, FileNotFoundError):
    """A path without a file."""
