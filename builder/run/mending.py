"""Sets damaged parts of a run aside, so that their rows are made again. The caller holds the run's lock.

A disk error, a bad copy or a person may change a part after it was written. Every reader of a part checks it
(builder/run/store.py) and stops at damage. A build then checks all parts, moves the damaged ones away and starts again:
their rows are now missing, and are made like any others.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from cyclepref.builder.common import progress
from cyclepref.builder.run.store import READERS, TABLES, DamagedPart, Store

log = logging.getLogger("cyclepref.store")

# A build gives up after meeting new damage this often, each time in parts that were sound at the last check.
MENDS = 3


def damaged_parts(store: Store, places: list[tuple[str, str]]) -> Iterator[tuple[str, str, DamagedPart]]:
    """(table, part, what is wrong) for each damaged part among those at `places`; reads all of them.

    Raises:
        StoreError: if a part's bytes cannot be read.
    """

    def look(place: tuple[str, str]) -> DamagedPart | None:
        try:
            for _ in store.examine(*place):
                pass
        except DamagedPart as error:
            return error
        except FileNotFoundError:  # it was joined or pruned meanwhile
            return None
        return None

    with progress.stage("parts checked", len(places)) as tick, ThreadPoolExecutor(READERS) as pool:
        for place, wrong in zip(places, pool.map(look, places), strict=True):
            tick(1)
            if wrong:
                yield *place, wrong


def set_damaged_aside(store: Store, places: list[tuple[str, str]] | None = None) -> int:
    """Set every damaged part aside (among those at `places`: table and part), with a warning for each; returns how
    many. The caller holds the run's lock.

    Raises:
        StoreError: if a part's bytes cannot be read.
    """
    count = 0
    every = [(table, part) for table in TABLES for part in store.parts(table)]
    for table, part, wrong in damaged_parts(store, every if places is None else places):
        log.warning("%s: moved to %s; its rows are made again", wrong.found, store.set_aside(table, part))
        count += 1
    return count
