"""Sets of ids in 16 bytes each, so that ten million can be looked up in seconds and in little memory.

An id is the hex form of 16 bytes (schemas/ids.py). Ten million ids as Python or Arrow strings with a hash table take
well over a gigabyte; here they are two arrays of 64-bit integers, sorted by the first.
"""

import hashlib
import re
from binascii import unhexlify
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

HEX = b"0123456789abcdef"
ID = re.compile(r"[0-9a-f]{32}")
# Rows per block: few enough for a processor's cache, enough for numpy to be fast.
CHUNK = 1 << 18
# Chunks that are looked up at a time; numpy needs little of Python's lock.
THREADS = 2

Strings = pa.ChunkedArray | pa.Array


def pack(ids: Strings) -> np.ndarray:
    """Ids as integers, shape (n, 2), uint64. An id that is not 32 hex characters is hashed to 16 bytes first."""
    return np.concatenate([np.empty((0, 2), dtype=np.uint64), *map(_pack, _chunks(ids))])


def _pack(ids: pa.Array) -> np.ndarray:
    ids = ids.cast(pa.large_string())
    _, offsets, data = ids.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[ids.offset : ids.offset + len(ids) + 1]
    if ids.null_count == 0 and (np.diff(ends) == 32).all():
        letters = data[ends[0] : ends[-1]].to_pybytes()
        if not letters.translate(None, HEX):
            return _halves(unhexlify(letters))
    return _halves(b"".join(map(_bytes, ids.to_pylist())))


def _halves(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def _bytes(id_: str | None) -> bytes:
    """One id as 16 bytes, the same as `_pack` computes for many at once."""
    if id_ is not None and ID.fullmatch(id_):
        return bytes.fromhex(id_)
    return hashlib.blake2b(str(id_).encode(), digest_size=16).digest()


class IdSet:
    """A set of packed ids with a fast membership test."""

    def __init__(self, high: np.ndarray, low: np.ndarray):
        """Make a set from the two halves of the ids, both sorted by the first half."""
        self._high, self._low = high, low

    @classmethod
    def of(cls, packed: Iterable[np.ndarray] = ()) -> "IdSet":
        """A set of packed ids."""
        return cls(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64)).plus(packed)

    def plus(self, packed: Iterable[np.ndarray]) -> "IdSet":
        """This set with more packed ids."""
        more = list(packed)
        high = np.concatenate([self._high, *(some[:, 0] for some in more)])
        low = np.concatenate([self._low, *(some[:, 1] for some in more)])
        more.clear()
        order = np.argsort(high)
        # One half after the other, to use less memory at a time.
        high = high[order]
        low = low[order]
        return IdSet(high, low)

    def __len__(self) -> int:
        return len(self._high)

    def holds(self, ids: Strings) -> pa.BooleanArray:
        """Whether each id is in the set."""
        with ThreadPoolExecutor(THREADS) as pool:
            masks = list(pool.map(lambda chunk: self.holds_packed(_pack(chunk)), _chunks(ids)))
        return pa.array(np.concatenate([np.empty(0, dtype=bool), *masks]))

    def holds_packed(self, packed: np.ndarray) -> np.ndarray:
        """Whether each packed id is in the set."""
        return self.places_of(packed) >= 0

    def places_of(self, packed: np.ndarray) -> np.ndarray:
        """Where each packed id is in the set, -1 for those that are not; the first place of one that is there twice."""
        # Searching in order goes through the set once, instead of jumping about in it.
        order = np.argsort(packed[:, 0])
        high, low = packed[:, 0][order], packed[:, 1][order]
        at = np.searchsorted(self._high, high)
        found, open_ = np.full(len(high), -1, dtype=np.int64), np.arange(len(high))
        # Ids that share their first half stand side by side: two of them are unlikely (2^-64), but handled.
        while len(open_):
            open_ = open_[at[open_] < len(self._high)]
            open_ = open_[self._high[at[open_]] == high[open_]]
            hit = self._low[at[open_]] == low[open_]
            found[open_[hit]] = at[open_[hit]]
            open_ = open_[~hit]
            at[open_] += 1
        places = np.empty(len(high), dtype=np.int64)
        places[order] = found
        return places


def firsts_of(packed: np.ndarray) -> np.ndarray:
    """Which packed ids are the first of their kind, shape (n,), bool."""
    order = np.lexsort((packed[:, 1], packed[:, 0]))
    first = np.ones(len(packed), dtype=bool)
    first[order[1:]] = (packed[order[1:]] != packed[order[:-1]]).any(axis=1)
    return first


class IdMap:
    """What belongs to ids: columns of numbers beside a set of packed ids, in few bytes a row."""

    def __init__(self, packed: Iterable[np.ndarray], *columns: Iterable[np.ndarray]):
        ids = np.concatenate([np.empty((0, 2), dtype=np.uint64), *packed])
        # Stable, so that of an id that is there twice the first stays first.
        order = np.argsort(ids[:, 0], kind="stable")
        self._ids = IdSet(ids[order, 0], ids[order, 1])
        del ids
        self._columns = [np.concatenate(list(column))[order] if len(order) else None for column in columns]

    def find(self, ids: Strings) -> tuple[np.ndarray, list[np.ndarray]]:
        """Which of some ids are here, shape (n,), bool; and of those that are what belongs to them."""
        places = self._ids.places_of(pack(ids))
        there = places >= 0
        if not there.any():
            return there, [np.empty(0)] * len(self._columns)
        return there, [column[places[there]] for column in self._columns]


def _chunks(ids: Strings) -> Iterable[pa.Array]:
    for chunk in ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]:
        for start in range(0, len(chunk), CHUNK):
            yield chunk.slice(start, CHUNK)
