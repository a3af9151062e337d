"""What every stage does to a block of rows: run a batch, halve one that raises, say what came of each row."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from cyclepref.builder import __version__
from cyclepref.schemas import records
from cyclepref.schemas.errors import Unavailable

# What a stage's last step tells the driver: how many rows of a model it finished, how many of them as failures, and how
# often the model's batches were halved for want of memory.
RECEIPT = pa.schema([("model", pa.string()), ("done", pa.int64()), ("failed", pa.int64()), ("halved", pa.int64())])


def blocks_of(rows: pa.Table, size: int) -> list[pa.Table]:
    """Consecutive blocks of at most `size` rows."""
    return [rows.slice(start, size).combine_chunks() for start in range(0, rows.num_rows, size)]


def attempt(run: Callable[..., list[Any]], *columns: list[Any]) -> list[Any | Exception]:
    """Run a batch; one that raises is halved until the rows that raise stand alone, with their exceptions.
    What is no row's fault ends the run.

    Raises:
        Unavailable: from the model.
    """
    try:
        return list(run(*columns))
    except Unavailable:
        raise
    except Exception as error:
        count = len(columns[0])
        if count == 1:
            return [error]
        halves = [column[: count // 2] for column in columns], [column[count // 2 :] for column in columns]
        return [result for half in halves for result in attempt(run, *half)]


def reason(error: Exception) -> str:
    """An exception's message as text that a table can hold: a file name may have bytes in it that are not UTF-8."""
    return str(error).encode("utf-8", "backslashreplace").decode()


def failure(row: dict[str, Any], key: str, stage: str, source: str) -> dict[str, Any]:
    """A Failure row, from a row with `model`, `error_class`, `message` and `attempt`; `key` names its id's column and
    `source` that of what it was made from."""
    values = (row[key], stage, row["model"], row[source], row["error_class"], row["message"][:2000], row["attempt"])
    return dict(zip(records.FAILURE.names, (*values, __version__), strict=True))


def failed_with(error: Exception, row: dict[str, Any]) -> dict[str, Any]:
    """A row with what it failed with."""
    return {**row, "error_class": type(error).__name__, "message": reason(error)}


def receipt(block: pa.Table, failed: int, halved: int = 0) -> pa.Table:
    """What a block, whose rows are all of one model, came to."""
    counts = {"done": [block.num_rows], "failed": [failed], "halved": [halved]}
    return pa.table({"model": [block["model"][0].as_py()], **counts}, schema=RECEIPT)
