"""What comes back from a cluster: answers, errors that travel as data, and what Ray itself raises."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray.exceptions

from cyclepref.builder.engine.cluster import EngineError, last_line
from cyclepref.builder.engine.task import Trouble

log = logging.getLogger("cyclepref.engine")

Step = Callable[[pa.Table], pa.Table]


def through(block: pa.Table, steps: tuple[Step, ...]) -> pa.Table | Trouble:
    """A block through its steps; an error is data."""
    try:
        for step in steps:
            block = step(block)
        return block
    except Exception as error:
        return Trouble.of(error)


def believed(answer: Any) -> Any:
    """An answer that is no trouble."""
    if isinstance(answer, Trouble):
        log.info("%s", answer.trace)
        raise EngineError(f"a worker failed: {answer.message}", answer.kind)
    return answer


@contextmanager
def ray_errors() -> Iterator[None]:
    """What Ray raises, as an EngineError."""
    try:
        yield
    except ray.exceptions.RayActorError as error:
        log.info("the cause, as Ray tells it:", exc_info=error)
        raise EngineError(
            f"a worker or its node was lost and did not come back ({type(error).__name__}): what was finished is "
            "saved; run the same command again"
        ) from error
    except ray.exceptions.RayError as error:
        log.info("the cause, as Ray tells it:", exc_info=error)
        raise EngineError(f"a worker failed: {last_line(error)}") from error
