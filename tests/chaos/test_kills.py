"""Kill -9 of anything at any moment: after the next run everything is as if nothing had happened, byte for byte."""

import random
import time

import pytest
from builds import tables

FATAL = ("driver", "everything", "raylet", "gcs_server")
# (cycle, seed, kills): each chain is one run directory whose build is killed again and again until it is done.
SAMPLE = ("i2t2i", 0, 2)
CHAINS = [(cycle, seed, 7) for cycle in ("i2t2i", "t2i2t") for seed in (1, 2)]


def schedule(cycle: str, seed: int, kills: int, parts: int) -> list[tuple[int, float, str]]:
    """(after this many parts, after this many seconds more, what): all kinds in turn, over all stages."""
    rng = random.Random(f"{cycle}-{seed}")
    kinds = ["everything", "model", "raylet", "actor", "driver", "gcs_server"]
    rng.shuffle(kinds)
    moments = sorted(rng.sample(range(parts), min(kills, parts)))
    return [(at, rng.uniform(0, 2), kinds[turn % len(kinds)]) for turn, at in enumerate(moments)]


def run_chain(start, clean, tmp_path, cycle: str, seed: int, kills: int) -> list[str]:
    """Kills as scheduled, in one run directory; in another if a build was done before the next kill came."""
    undisturbed, parts, _ = clean(cycle)
    happened: list[str] = []
    build = start(cycle, tmp_path / "run-0")
    for after, seconds, what in schedule(cycle, seed, kills, parts):
        while not strike(build, after, seconds, what):
            check(build, undisturbed, happened)
            build, after, seconds = start(cycle, tmp_path / f"run-{len(happened)}"), after // 2, 0
        happened.append(f"{what} after {build.parts} parts")
        if what in FATAL:
            build.end()
            assert "Traceback" not in build.output
            build = start(cycle, build.out)
    check(build, undisturbed, happened)
    return happened


def strike(build, after: int, seconds: float, what: str) -> bool:
    """Kill a part of a build at a moment; False if the build was done before."""
    if not build.wait_for(lambda: build.parts >= after):
        return False
    time.sleep(seconds)
    # Between two stages there is no worker to kill.
    return build.running() and build.wait_for(lambda: build.kill(what))


def check(build, undisturbed, happened: list[str]) -> None:
    """A build that ends by itself has made what an undisturbed one makes."""
    assert build.end() == 0, (happened, build.output)
    assert tables(build.out) == tables(undisturbed), happened
    assert not list((build.out / "store" / "attempts").rglob("*.json")), happened


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
