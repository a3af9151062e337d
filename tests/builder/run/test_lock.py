"""One build at a time in a run directory: refusing, recognising the dead, losing a lock."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cyclepref.builder.run import lock
from cyclepref.builder.run.lock import FOLDER, Holder, LockError, hold, holders
from cyclepref.builder.run.store import Store, StoreError

HOLD = """
import sys
from cyclepref.builder.run.lock import hold
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.store import Store
with hold(Store(sys.argv[1]), "build"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the run directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def announce(folder: Path, holder: Holder, seconds_ago: float = 0) -> Path:
    """What a build on another machine leaves in the directory."""
    path = folder / FOLDER / "other.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


@pytest.fixture
def elsewhere() -> Holder:
    return replace(Holder.here("build"), host="node-7", machine="another boot", pid=4321)


def test_a_second_build_is_refused_and_told_who_the_first_is(tmp_path, other):
    with (
        pytest.raises(LockError, match=rf"in use by `cyclepref build` on .* \(pid {other.pid}, since 20.* UTC\)"),
        hold(Store(tmp_path), "build"),
    ):
        pass
    assert len(holders(Store(tmp_path))) == 1


def test_the_directory_is_free_once_its_holder_has_ended(tmp_path, other):
    other.communicate("")
    with hold(Store(tmp_path), "build"):
        [mine] = holders(Store(tmp_path))
        assert mine.holder.pid == os.getpid()
    assert holders(Store(tmp_path)) == []


def test_a_holder_that_was_killed_is_recognised_at_once_and_said(tmp_path, other, caplog):
    other.kill()
    other.wait()
    with hold(Store(tmp_path), "build"):
        assert len(holders(Store(tmp_path))) == 1
    assert f"pid {other.pid}" in caplog.text
    assert "taking over" in caplog.text


def test_a_process_that_ended_and_was_not_waited_for_is_dead(tmp_path, other):
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with hold(Store(tmp_path), "build"):
        [mine] = holders(Store(tmp_path))
        assert mine.holder.pid == os.getpid()


def test_a_process_id_that_was_given_to_another_process_is_no_sign_of_life(tmp_path, caplog):
    announce(tmp_path, replace(Holder.here("build"), started="1"))
    with hold(Store(tmp_path), "build"):
        assert "taking over" in caplog.text


def test_a_holder_on_another_host_lives_as_long_as_its_heart_beats(tmp_path, elsewhere):
    path = announce(tmp_path, elsewhere, seconds_ago=lock.STALE_S / 2)
    with (
        pytest.raises(LockError, match=r"on node-7 \(pid 4321.*last sign of life was 30 s ago"),
        hold(Store(tmp_path), "build"),
    ):
        pass
    assert path.is_file()


def test_a_holder_on_another_host_whose_heart_stopped_is_taken_over(tmp_path, elsewhere, caplog):
    path = announce(tmp_path, elsewhere, seconds_ago=lock.STALE_S + 5)
    with hold(Store(tmp_path), "build"):
        assert not path.exists()
    assert "was left by `cyclepref build` on node-7" in caplog.text


def test_a_holder_on_another_host_whose_time_is_still_to_come_is_watched_and_taken_over(
    tmp_path, elsewhere, caplog, monkeypatch
):
    monkeypatch.setattr(lock, "WATCH_S", 0.05)
    monkeypatch.setattr(lock, "STALE_S", 0.6)
    path = announce(tmp_path, elsewhere, seconds_ago=-3600)
    began = time.monotonic()
    with hold(Store(tmp_path), "build") as held:
        assert time.monotonic() - began >= 0.6
        assert not path.exists()
        held.check()
    assert "dated 3600 s from now" in caplog.text
    assert "remove " + str(path) in caplog.text
    assert "taking over" in caplog.text


def test_a_holder_whose_time_is_still_to_come_and_whose_heart_beats_is_left_in_peace(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_S", 0.05)
    path = announce(tmp_path, elsewhere, seconds_ago=-3600)
    beating = threading.Timer(0.3, lambda: os.utime(path))
    beating.start()
    with pytest.raises(LockError, match=r"in use by .* on node-7"), hold(Store(tmp_path), "build"):
        pass
    beating.join()
    assert os.listdir(tmp_path / FOLDER) == ["other.json"]


def test_clocks_that_differ_decide_nothing(tmp_path, elsewhere, monkeypatch):
    announce(tmp_path, elsewhere)
    monkeypatch.setattr(time, "time", lambda: 1e10)
    with pytest.raises(LockError, match="node-7"), hold(Store(tmp_path), "build"):
        pass


def test_one_process_cannot_hold_a_directory_twice(tmp_path):
    with hold(Store(tmp_path), "build"), pytest.raises(LockError, match="in use by"), hold(Store(tmp_path), "prune"):
        pass


def test_a_holder_that_was_taken_over_notices_and_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with hold(Store(tmp_path), "build") as held:
        held.check()
        [mine] = holders(Store(tmp_path))
        (tmp_path / mine.name).unlink()
        deadline = time.monotonic() + 20
        while not held.lost and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(LockError, match="was taken over by another build"):
            held.check()


def test_a_heart_that_beats_keeps_the_announcement_young(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with hold(Store(tmp_path), "build"):
        [first] = holders(Store(tmp_path))
        deadline = time.monotonic() + 20
        while holders(Store(tmp_path))[0].beat == first.beat and time.monotonic() < deadline:
            time.sleep(0.05)
        assert holders(Store(tmp_path))[0].beat > first.beat


def test_of_many_that_start_together_at_most_one_goes_on(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        said = [process.communicate("") for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert sum(out == "held\n" for out, _ in said) <= 1
    assert all(out == "held\n" or "in use by" in err for out, err in said)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name in ("store/inputs/.tmp-1", "dataset/pairs/.tmp-2", ".tmp-3", "store/inputs/a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with hold(Store(tmp_path), "build"):
        left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert [name for name in left if not name.startswith(FOLDER)] == ["store/inputs/a.parquet"]
    assert "removed 3 files" in caplog.text


def test_a_build_that_was_refused_for_its_recipe_leaves_no_directory(tmp_path):
    with pytest.raises(ValueError, match="no"), hold(Store(tmp_path / "run"), "build"):
        raise ValueError("no")
    assert not (tmp_path / "run").exists()


def test_an_announcement_that_is_none_is_refused_by_name(tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "x.json").write_text('{"pid": "1"}')
    with (
        pytest.raises(StoreError, match=r"\.locks/x\.json is damaged \(command: Field required.*remove it if no build"),
        hold(Store(tmp_path), "build"),
    ):
        pass
    assert os.listdir(tmp_path / FOLDER) == ["x.json"]
