"""Progress bars keep what people look at, counts and time left, within any terminal."""

import io

import pytest
from rich.console import Console

from cyclepref.builder.common import progress
from cyclepref.builder.common.time_left import TimeLeft


@pytest.mark.parametrize("width", [80, 100, 160])
def test_counts_and_both_times_with_their_words_fit_the_terminal(monkeypatch, width):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    left = TimeLeft({"a": 480_000})
    with progress._bar("a stage whose name is far too long for a bar", 480_000, left, "") as tick:
        left.tick(0.0, "a", 120_000, 45_000.0)
        tick(120_000)
    lines = [line for line in screen.getvalue().replace("\r", "\n").split("\n") if "/480000" in line]
    assert any("so far, 37:30:00 left" in line for line in lines), lines
    assert all(len(line.split("\x1b")[0]) <= width for line in lines)


def test_a_stage_that_is_done_says_how_long_it_took(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=80, color_system=None))
    with progress._bar("candidates", 2, TimeLeft({"a": 2}), "") as tick:
        tick(2)
    assert "took 0:00" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (11_100, "3:05:00")])
def test_times_read_as_people_write_them(seconds, text):
    assert progress._clock(seconds) == text


@pytest.mark.parametrize("width", [80, 160])
def test_a_bar_says_that_models_load_until_the_first_rows_are_done(monkeypatch, width):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    left = TimeLeft({"a": 20})
    with progress._bar("candidates", 20, left, "loading models") as tick:
        left.tick(60.0, "a", 10, 5.0)
        tick(10)
    first, *_, last = [line for line in screen.getvalue().replace("\r", "\n").split("\n") if "/20" in line]
    assert "so far, loading models" in first
    assert "so far, 0:05 left" in last


def test_a_log_tells_start_up_as_that_and_then_the_speed_without_it(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, width=120))
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0)
    left = TimeLeft({"a": 30})
    with progress.stage("candidates", 30, left, "loading models") as tick:
        for now in (60.0, 65.0):
            left.tick(now, "a", 10)
            tick(10)
    assert screen.getvalue().splitlines()[:3] == [
        "candidates: 30 rows to do, loading models",
        "candidates: 10/30 rows",
        "candidates: 20/30 rows, 2.0 a second, 5 s left",
    ]


def test_work_without_an_estimate_of_its_own_gets_one(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, width=120))
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0)
    with progress.stage("statistics", 3) as tick:
        for _ in range(3):
            tick(1)
    first, second, *_ = screen.getvalue().splitlines()
    assert first == "statistics: 1/3 rows"
    assert second.startswith("statistics: 2/3 rows, ")
    assert second.endswith(" a second, 0 s left")
