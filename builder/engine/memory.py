"""When a batch does not fit in memory: half of it, from then on, in this process and in the one that replaces it."""

import gc
import sys
from collections.abc import Callable
from typing import Any, ClassVar


class Fitting:
    """A model's call, a batch at a time, that halves the model's batch size when memory runs out, and goes on.

    The model's `spec.batch_size` is the one that is lowered, so padding follows it: rows keep their ids and seeds, and
    on a CPU values of the smaller shape may differ in their last bits from those of the full one. At batch size 1 the
    error is raised.
    """

    # For whoever watches over this process (builder/engine/supervisor.py): is told a model's name and batch size before
    # each of its batches, and tells by name the batch sizes that an earlier process came down to.
    before_batch: ClassVar[Callable[[str, int], None]] = staticmethod(lambda name, size: None)
    reached: ClassVar[dict[str, int]] = {}

    def __init__(self, model: Any, call: Callable[..., list[Any]]):
        self.model, self.call = model, call
        self._halved = 0
        if (size := self.reached.get(model.spec.name, model.spec.batch_size)) < model.spec.batch_size:
            self._fit(size)

    def __call__(self, *columns: list[Any]) -> list[Any]:
        """The outputs of rows, in order."""
        outputs: list[Any] = []
        start = 0
        while start < len(columns[0]):
            size = self.model.spec.batch_size
            self.before_batch(self.model.spec.name, size)
            try:
                outputs += list(self.call(*(column[start : start + size] for column in columns)))
                start += size
                continue
            except Exception as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            # Out here the exception is gone, and with it the tensors that its frames held.
            free()
            self._fit(size // 2)
            self._halved += 1
        return outputs

    def _fit(self, size: int) -> None:
        self.model.spec = self.model.spec.model_copy(update={"batch_size": size})

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
