"""Damaged parts of a run are set aside by whoever holds its lock, and what was in them is made again.

A disk, a copy or a hand may change a part after it was written. Whatever reads a part checks what it reads
(builder/run/store.py) and stops. A build then looks at every part, moves the damaged ones away and begins again, where
their rows are wanted and not there: so they are made as if they had never been.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from cyclepref.builder.common import progress
from cyclepref.builder.run.store import READERS, TABLES, DamagedPart, Store

log = logging.getLogger("cyclepref.store")

# A build that has met damage so often, each time in parts that were whole when it last looked, gives up.
MENDS = 3


def damaged_parts(store: Store, places: list[tuple[str, str]]) -> Iterator[tuple[str, str, DamagedPart]]:
    """(table, part, what is wrong) of each of the parts at `places` that is not what was written; reads all of them.

    Raises:
        StoreError: if a part's bytes cannot be read.
    """

    def look(place: tuple[str, str]) -> DamagedPart | None:
        try:
            for _ in store.examine(*place):
                pass
        except DamagedPart as error:
            return error
        except FileNotFoundError:  # joined or pruned meanwhile
            return None
        return None

    with progress.stage("parts checked", len(places)) as tick, ThreadPoolExecutor(READERS) as pool:
        for place, wrong in zip(places, pool.map(look, places), strict=True):
            tick(1)
            if wrong:
                yield *place, wrong


def set_damaged_aside(store: Store, places: list[tuple[str, str]] | None = None) -> int:
    """Set every damaged part aside (of those at `places`: table and part), and say each in a line; returns how many.
    The caller holds the run's lock.

    Raises:
        StoreError: if a part's bytes cannot be read.
    """
    count = 0
    every = [(table, part) for table in TABLES for part in store.parts(table)]
    for table, part, wrong in damaged_parts(store, every if places is None else places):
        log.warning("%s: moved to %s; its rows are made again", wrong.found, store.set_aside(table, part))
        count += 1
    return count
