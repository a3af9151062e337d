"""What can be wrong with an evaluation."""

from cyclepref.schemas.errors import CyclePrefError


class EvaluationError(CyclePrefError, ValueError):
    """Something that cannot be evaluated, or on which an evaluation would say nothing."""


class LeakError(EvaluationError):
    """Test inputs that the reward model was trained on."""
