"""When a batch does not fit in memory: half of it, from then on."""

import gc
import sys
from collections.abc import Callable
from typing import Any


class Fitting:
    """A model's call that halves the model's batch size when memory runs out, and goes on.

    The model's `spec.batch_size` is the one that is lowered, so padding follows it: rows keep their ids and seeds, and
    on a CPU values of the smaller shape may differ in their last bits from those of the full one. At batch size 1 the
    error is raised.
    """

    def __init__(self, model: Any, call: Callable[..., list[Any]]):
        self.model, self.call = model, call
        self._halved = 0

    def __call__(self, *columns: list[Any]) -> list[Any]:
        """The outputs of a batch, in order."""
        while True:
            try:
                return list(self.call(*columns))
            except Exception as error:
                if not is_out_of_memory(error) or self.model.spec.batch_size == 1:
                    raise
            # Out here the exception is gone, and with it the tensors that its frames held.
            free()
            self.model.spec = self.model.spec.model_copy(update={"batch_size": self.model.spec.batch_size // 2})
            self._halved += 1

    def halvings(self) -> int:
        """How often the batch was halved since the last time this was asked."""
        count, self._halved = self._halved, 0
        return count


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: torch's on a GPU and on a CPU, or Python's own."""
    # By name, since a worker without torch must not import it for this.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or "DefaultCPUAllocator: can't allocate" in str(error)


def free() -> None:
    """Give memory that nothing uses back to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
