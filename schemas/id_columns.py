"""Ids of whole columns at once: what schemas/ids.py makes of one row, for millions of rows.

Python's BLAKE2b takes half a microsecond a row, and all the rest is done for a column at a time: parts are framed as
`cyclepref.schemas.ids.digest` frames them, the state after what all rows share is copied instead of made anew, and the
hex letters are written into one buffer.
"""

import hashlib
import struct
from binascii import hexlify
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from operator import add
from typing import Any

import numpy as np
import pyarrow as pa

from cyclepref.schemas.ids import framed

# What a row's id is made of: a value that all rows share, or a column with one for each row.
Part = str | int | None | pa.Array | pa.ChunkedArray | np.ndarray
# How the length of a part of up to so many bytes stands before it.
LENGTHS = [length.to_bytes(8, "little") for length in range(256)]
BYTES = 16


def generation_ids(source_ids: Part, model_fingerprint: str, seeds: Part) -> pa.Array:
    """`cyclepref.schemas.ids.generation_id` of each source with its seed, by one model."""
    return hex_of(digests("generation", source_ids, model_fingerprint, seeds))


def similarity_ids(input_ids: Part, content_ids: Part, metric_fingerprint: str) -> pa.Array:
    """`cyclepref.schemas.ids.similarity_id` of each input with a content, by one metric."""
    return hex_of(digests("similarity", input_ids, content_ids, metric_fingerprint))


def pair_digests(chosen_ids: Part, rejected_ids: Part, scored_by: str) -> np.ndarray:
    """The bytes of `cyclepref.schemas.ids.pair_id` of each two candidates, shape (n, 16)."""
    return digests("pair", chosen_ids, rejected_ids, scored_by)


def sample_seeds(recipe_seed: int, input_ids: Part, sample_indices: Part, role: str) -> np.ndarray:
    """`cyclepref.schemas.ids.sample_seed` of each input and index, shape (n,), int64."""
    made = digests("seed", role, recipe_seed, input_ids, sample_indices)
    return (made[:, :8].copy().view(">u8")[:, 0] >> np.uint64(1)).astype(np.int64)


def digests(*parts: Part) -> np.ndarray:
    """The bytes of `cyclepref.schemas.ids.digest` of each row, shape (n, 16), uint8; at least one part is a column."""
    count = next(len(part) for part in parts if _is_column(part))
    first = next(at for at, part in enumerate(parts) if _is_column(part))
    start = hashlib.blake2b(b"".join(map(framed, parts[:first])), digest_size=BYTES).copy
    made: list[bytes] = []
    keep = made.append
    for row in _rows(parts[first:], count):
        hashed = start()
        hashed.update(row)
        keep(hashed.digest())
    return np.frombuffer(b"".join(made), dtype=np.uint8).reshape(count, BYTES)


def hex_of(made: np.ndarray) -> pa.Array:
    """Digests, shape (n, 16), as ids: strings of 32 hex letters."""
    return strings_of(np.frombuffer(hexlify(np.ascontiguousarray(made)), dtype=np.uint8).reshape(len(made), 2 * BYTES))


def strings_of(letters: np.ndarray) -> pa.Array:
    """Rows of ASCII letters, shape (n, width), uint8, as strings of that width."""
    count, width = letters.shape
    if count * width >= 2**31:
        raise ValueError(f"{count} strings of {width} letters do not fit into one array: make fewer at a time")
    offsets = pa.py_buffer(np.arange(0, count * width + 1, max(1, width), dtype=np.int32)[: count + 1])
    return pa.StringArray.from_buffers(count, offsets, pa.py_buffer(np.ascontiguousarray(letters)))


def letters_of(ids: pa.Array | pa.ChunkedArray) -> np.ndarray | None:
    """Strings that are all of one length as bytes, shape (n, length), uint8; None if they are not."""
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if not len(array) or array.null_count or not pa.types.is_string(array.type):
        return None
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    width = int(ends[1] - ends[0])
    if data is None or not width or (np.diff(ends) != width).any():
        return None
    return np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]].reshape(len(array), width)


# ---- rows of bytes ---------------------------------------------------------------------------------------------


def _is_column(part: Part) -> bool:
    return isinstance(part, pa.Array | pa.ChunkedArray | np.ndarray)


def _rows(parts: Iterable[Part], count: int) -> Iterable[bytes]:
    """What is hashed of each row: its framed parts, one after the other. Neighbours of one width are framed together;
    the others row by row."""
    pieces: list[Iterable[bytes]] = []
    blocks: list[np.ndarray] = []
    for part in parts:
        block = _block(part)
        if block is not None:
            blocks.append(block)
            continue
        pieces += [_cut(blocks, count)] if blocks else []
        pieces.append(_framed_one_by_one(part))
        blocks = []
    pieces += [_cut(blocks, count)] if blocks else []
    rows = pieces[0]
    for piece in pieces[1:]:
        rows = map(add, rows, piece)
    return rows


def _block(part: Part) -> np.ndarray | None:
    """A part as bytes with its frame, shape (n, width) or (1, width) where all rows share it; None if rows differ in
    width."""
    if not _is_column(part):
        return np.frombuffer(framed(part), dtype=np.uint8)[None]
    letters = letters_of(part) if not isinstance(part, np.ndarray) else None
    if letters is None:
        return None
    frame = np.frombuffer(b"s" + letters.shape[1].to_bytes(8, "little"), dtype=np.uint8)
    return np.concatenate([np.broadcast_to(frame, (len(letters), len(frame))), letters], axis=1)


def _cut(blocks: list[np.ndarray], count: int) -> Iterable[bytes]:
    """The rows of blocks side by side."""
    if all(len(block) == 1 for block in blocks) and count != 1:
        return repeat(b"".join(block.tobytes() for block in blocks), count)
    together = np.concatenate([np.broadcast_to(block, (count, block.shape[1])) for block in blocks], axis=1)
    return chain.from_iterable(struct.iter_unpack(f"{together.shape[1]}s", together.tobytes()))


def _framed_one_by_one(part: Part) -> Iterator[bytes]:
    values: list[Any] = part.tolist() if isinstance(part, np.ndarray) else part.to_pylist()
    return map(_framed_number if _all_numbers(part) else framed, values)


def _all_numbers(part: Part) -> bool:
    if isinstance(part, np.ndarray):
        return part.dtype.kind in "iu"
    return pa.types.is_integer(part.type) and not part.null_count


def _framed_number(value: int) -> bytes:
    digits = b"%d" % value
    return b"i" + LENGTHS[len(digits)] + digits
