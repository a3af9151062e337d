"""Time left is told within a factor of 1.5 after a tenth of the rows, wherever the rows so far can tell it."""

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclepref.builder.common.time_left import TimeLeft

START_S = 60.0
COSTS = {"fast": 0.02, "middle": 0.2, "slow": 1.0}


def stream(blocks, hosts: int, jitter: float = 0.0, start: float = START_S):
    """When blocks (model, rows, seconds a row) come back, from hosts that load for `start` seconds and then take one
    after another: (time, model, rows, seconds worked), in order."""
    rng = random.Random(0)
    free = [start] * hosts
    done = []
    for model, rows, cost in blocks:
        seconds = rows * cost * rng.uniform(1 - jitter, 1 + jitter)
        end = heapq.heappop(free) + seconds
        heapq.heappush(free, end)
        done.append((end, model, rows, seconds))
    return sorted(done)


def unmeasured(ticks):
    """The stream of hosts that do not say how long they worked."""
    return [(*tick[:3], None) for tick in ticks]


def worst(ticks, since: float = 0.1, until: float = 0.9) -> float:
    """The largest factor by which the time left is wrong while from `since` to `until` of the rows are done. A fiftieth
    of the whole working time more or less is right, since the last seconds are nobody's concern."""
    rows: dict[str, int] = {}
    for _, model, count, _ in ticks:
        rows[model] = rows.get(model, 0) + count
    estimate, done, end = TimeLeft(rows), 0, ticks[-1][0]
    slack = (end - ticks[0][0]) / 50
    factors = []
    for now, model, count, seconds in ticks:
        estimate.tick(now, model, count, seconds)
        done += count
        if since <= done / sum(rows.values()) <= until:
            predicted, true = estimate.seconds_left + slack, end - now + slack
            factors.append(max(predicted / true, true / predicted))
    return max(factors)


def by_work_left(costs: dict[str, float], rows: int, block: int):
    """Blocks in the order of an engine that tries each model and then takes from that with most work left."""
    left = dict.fromkeys(costs, rows)
    trial = iter(costs)
    while any(left.values()):
        model = next(trial, None) or max(left, key=lambda name: left[name] * costs[name])
        taken = min(block, left[model])
        left[model] -= taken
        yield model, taken, costs[model]


def test_start_up_is_no_part_of_the_speed():
    """Models that load for 60 s and then take 30 s: that minute is not the speed of the first rows."""
    ticks = stream([("a", 16, 30 / 1600)] * 100, hosts=1)
    assert worst(ticks, since=0) < 1.01
    assert worst(unmeasured(ticks), since=0.02) < 1.01


def test_the_first_rows_tell_the_speed_if_their_host_says_how_long_it_worked():
    estimate = TimeLeft({"a": 30})
    assert (estimate.begun, estimate.seconds_left, estimate.rows_a_second) == (False, None, None)
    estimate.tick(60.0, "a", 10, 5.0)
    assert (estimate.begun, estimate.seconds_left, estimate.rows_a_second) == (True, 10.0, 2.0)


def test_the_first_rows_tell_nothing_if_nobody_says_when_their_work_began():
    estimate = TimeLeft({"a": 30})
    estimate.tick(60.0, "a", 10)
    assert (estimate.begun, estimate.seconds_left, estimate.rows_a_second) == (True, None, None)
    estimate.tick(70.0, "a", 10)
    assert (estimate.seconds_left, estimate.rows_a_second) == (10.0, 1.0)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 16), st.integers(30, 60), st.floats(0.01, 30), st.floats(0, 0.2), st.floats(0, 600))
def test_hosts_whose_blocks_come_in_bursts_are_told_right_after_a_tenth(hosts, rounds, cost, jitter, start):
    """Any number of hosts that begin at once and finish at about once. In the middle of a burst the hosts that have not
    come back yet seem idle, so that a tenth of fewer than three rounds could be wrong by more for a moment."""
    ticks = stream([("a", 64, cost)] * hosts * rounds, hosts, jitter, start)
    assert worst(ticks) < 1.5
    assert worst(unmeasured(ticks), since=0.15) < 1.5


@pytest.mark.parametrize("hosts", [1, 2, 8])
def test_models_fifty_times_apart_that_run_by_turns_are_told_right_after_a_tenth(hosts):
    assert worst(stream(by_work_left(COSTS, rows=2000, block=8), hosts, jitter=0.1)) < 1.5


def test_models_by_turns_on_one_host_need_no_seconds_of_work():
    """Once each has come back twice: the fast ones, after their trial, when the slow one is nearly done."""
    ticks = unmeasured(stream(by_work_left(COSTS, rows=2000, block=16), hosts=1))
    assert worst(ticks, since=0.7) < 1.5


@pytest.mark.parametrize("hosts", [1, 8])
@pytest.mark.parametrize("order", [("fast", "slow"), ("slow", "fast")])
def test_models_fifty_times_apart_one_after_another_are_told_right_once_the_second_has_come_back(hosts, order):
    """Before that nobody can know, so the estimate is wrong by up to what the models differ."""
    ticks = stream([(model, 16, COSTS[model]) for model in order for _ in range(100)], hosts)
    assert worst(ticks) > 3
    assert worst(ticks, since=(101 + 2 * hosts) / 200) < 1.5
    if hosts == 1:
        assert worst(unmeasured(ticks), since=102 / 200) < 1.5


@pytest.mark.parametrize("known", [True, False])
def test_a_model_that_loads_before_its_first_rows_does_not_seem_slow_for_that(known):
    first = stream([("a", 16, 0.1)] * 50, hosts=1)
    ticks = first + stream([("b", 16, 0.1)] * 50, hosts=1, start=first[-1][0] + 20)
    assert worst(ticks if known else unmeasured(ticks), since=0.52) < 1.3


def test_models_on_hosts_of_their_own_are_told_right_after_a_tenth():
    """Two hosts make the fast model's rows and six the slow one's, and all end together."""
    fast = stream([("fast", 16, 0.05)] * 400, hosts=2, jitter=0.1)
    slow = stream([("slow", 16, 0.3)] * 200, hosts=6, jitter=0.1)
    assert worst(sorted(fast + slow)) < 1.5


def test_blocks_that_get_smaller_towards_the_end_are_told_right():
    sizes = [64] * 40 + [32] * 20 + [8] * 20 + [2] * 40
    assert worst(stream([("a", size, 0.5) for size in sizes], hosts=4, jitter=0.1)) < 1.5


def test_work_that_is_done_takes_no_more_time():
    estimate = TimeLeft({"a": 5})
    estimate.tick(1.0, "a", 5)
    assert estimate.seconds_left == 0


def test_a_model_that_there_was_no_work_for_is_an_error():
    with pytest.raises(KeyError, match="other"):
        TimeLeft({"a": 1}).tick(0.0, "other", 1)
