"""Errors of an evaluation."""

from cyclepref.schemas.errors import CyclePrefError


class EvaluationError(CyclePrefError, ValueError):
    """Something that cannot be evaluated, or for which the result would mean nothing."""


class LeakError(EvaluationError):
    """Test inputs that the reward model was trained on."""
