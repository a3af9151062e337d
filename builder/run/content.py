"""Finds the content of ids in the store, and reads texts and images."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from cyclepref.builder.common.images import decode
from cyclepref.builder.run.store import Store, first_of_each


def attach(block: pa.Table, store: Store, tables: dict[str, str]) -> pa.Table:
    """Fill a block of ids with content. For each role in `tables` (role -> table of the store) the columns
    `{role}_part` and `{role}_row`, which locate the content, are replaced by `{role}_text` and `{role}_image`."""
    for role, table in tables.items():
        places = block[f"{role}_part"].to_pylist(), block[f"{role}_row"].to_pylist()
        content = store.fetch(table, *places, columns=["text", "image"])
        block = block.drop_columns([f"{role}_part", f"{role}_row"])
        for name in ("text", "image"):
            block = block.append_column(f"{role}_{name}", content[name])
    return block


def locate(rows: pa.Table, role: str, column: str, content: pa.Table, key: str) -> pa.Table:
    """Add the part and row of each row's content: its `column` is looked up as a `key` of `content`, which has `part`
    and `row`."""
    places = first_of_each(content.select([key, "part", "row"]), key).rename_columns(
        [column, f"{role}_part", f"{role}_row"]
    )
    return rows.join(places, keys=column, join_type="inner")


def contents(block: pa.Table, role: str) -> list[Any]:
    """The content of a role, row by row: the text, or the decoded image; a repeated image is decoded once."""
    texts, images = block[f"{role}_text"].to_pylist(), block[f"{role}_image"].to_pylist()
    decoded = {image: decode(image) for image in set(images) - {None}}
    return [text if image is None else decoded[image] for text, image in zip(texts, images, strict=True)]


class Contents:
    """The content that a block's rows have in some roles, decoded a batch at a time: the first when this is made, each
    other while the caller works on the one before. A whole block of decoded photos would not fit in memory."""

    def __init__(self, block: pa.Table, roles: Iterable[str], batch_size: int):
        self._batches = [block.slice(start, batch_size) for start in range(0, block.num_rows, batch_size)]
        self._roles = list(roles)
        self._first = self._decoded(0)

    def batches(self) -> Iterator[list[list[Any]]]:
        """For each batch, a list of texts or images for each role; to be asked for once."""
        with ThreadPoolExecutor(1) as thread:
            batch, self._first = self._first, None
            for at in range(1, len(self._batches) + 1):
                coming = thread.submit(self._decoded, at) if at < len(self._batches) else None
                yield batch
                batch = coming.result() if coming else None

    def _decoded(self, at: int) -> list[list[Any]]:
        return [contents(self._batches[at], role) for role in self._roles]


def content_by_id(store: Store, table: str, key: str, ids: Iterable[str]) -> dict[str, Any]:
    """The text or the decoded image of rows of `inputs` or `generations`, by their `key`; unknown ids are left out."""
    rows = pa.table({key: pa.array(sorted(set(ids)), pa.string())})
    rows = locate(rows, "it", key, store.rows(table, [key]), key)
    found = store.fetch(table, rows["it_part"].to_pylist(), rows["it_row"].to_pylist(), columns=["text", "image"])
    rows = rows.select([key]).append_column("it_text", found["text"]).append_column("it_image", found["image"])
    return dict(zip(rows[key].to_pylist(), contents(rows, "it"), strict=True))
