"""Kill -9 of anything at any moment: after the next run everything is as if nothing had happened, byte for byte."""

import random
import time

import pytest
from builds import tables

FATAL = ("driver", "everything", "raylet")
# (cycle, seed, kills): each chain is one run directory whose build is killed again and again until it is done.
SAMPLE = ("i2t2i", 0, 4)
CHAINS = [(cycle, seed, 7) for cycle in ("i2t2i", "t2i2t") for seed in (1, 2)]


def schedule(cycle: str, seed: int, kills: int, parts: int) -> list[tuple[int, float, str]]:
    """(after this many parts, after this many seconds more, what): all kinds in turn, over all stages."""
    rng = random.Random(f"{cycle}-{seed}")
    kinds = ["everything", "model", "raylet", "actor", "driver"]
    rng.shuffle(kinds)
    moments = sorted(rng.sample(range(parts), min(kills, parts)))
    return [(at, rng.uniform(0, 2), kinds[turn % len(kinds)]) for turn, at in enumerate(moments)]


def run_chain(start, clean, tmp_path, cycle: str, seed: int, kills: int) -> list[str]:
    undisturbed, parts, _ = clean(cycle)
    out, happened = tmp_path / "run", []
    build = start(cycle, out)
    for after, seconds, what in schedule(cycle, seed, kills, parts):
        if not build.wait_for(lambda build=build, after=after: build.parts >= after):
            assert build.end() == 0, build.output
            break
        time.sleep(seconds)
        if build.wait_for(lambda build=build, what=what: build.kill(what)):  # between two stages there is no worker
            happened.append(f"{what} after {build.parts} parts")
        if what in FATAL:
            assert build.end() != 0 or what == "raylet"
            assert "Traceback" not in build.output
            build = start(cycle, out)
    status = build.end()
    assert status == 0, (happened, build.output)
    assert tables(out) == tables(undisturbed), happened
    assert not list((out / "store" / "attempts").rglob("*.json")), happened
    return happened


def test_a_build_that_is_killed_in_every_way_ends_as_if_nothing_had_happened(start, clean, tmp_path, record_property):
    record_property("kills", run_chain(start, clean, tmp_path, *SAMPLE))


@pytest.mark.slow
@pytest.mark.parametrize(("cycle", "seed", "kills"), CHAINS)
def test_kills_at_random_moments_over_all_stages_change_no_byte(
    start, clean, tmp_path, record_property, cycle, seed, kills
):
    happened = run_chain(start, clean, tmp_path, cycle, seed, kills)
    record_property("kills", happened)
    print(f"{cycle} seed {seed}: {'; '.join(happened)}")


def test_the_chains_have_at_least_25_kill_points():
    assert sum(kills for _, _, kills in CHAINS) >= 25
