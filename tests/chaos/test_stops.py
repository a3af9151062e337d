"""Ctrl-C, a scheduler's SIGTERM, a full disk, a lost node: one clear message, nothing lost, and it goes on."""

import re
import shlex
import signal
import subprocess
import time

import pytest
from builds import tables

LOUD = ("Traceback", "ray::", "Exception", "*** SIG", "(raylet)")


@pytest.mark.slow  # test_engine sends both to a stream
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_first_signal_saves_and_prints_the_command_that_goes_on(start, clean, tmp_path, number):
    undisturbed, parts, _ = clean("i2t2i")
    out = tmp_path / "a run"
    build = start("i2t2i", out)
    assert build.wait_for(lambda: build.parts > parts // 3)
    build.family()
    build.signal(number)
    assert build.end() == 130
    assert "what is in flight is being finished" in build.output
    assert not [word for word in LOUD if word in build.output], build.output
    command = re.search(r"this resumes it:\n  (.+)", build.output)[1]
    assert shlex.split(command)[-1] == str(out)
    assert not list((out / "store" / "attempts").rglob("*.json"))
    assert build.parts < parts
    again = start("i2t2i", out)
    assert again.end() == 0, again.output
    assert tables(out) == tables(undisturbed)


@pytest.mark.slow
def test_the_second_signal_stops_at_once(start, tmp_path):
    build = start("i2t2i", tmp_path / "run")
    assert build.wait_for(lambda: build.parts > 3)
    build.family()
    build.signal(signal.SIGINT)
    assert build.wait_for(lambda: "being finished" in build.output)
    build.signal(signal.SIGINT)
    asked = time.monotonic()
    assert build.end() == 130
    assert time.monotonic() - asked < 45
    assert not [word for word in LOUD if word in build.output], build.output
    assert not list((tmp_path / "run" / "store" / "attempts").rglob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_death_of_a_process_of_ray_s_own_prints_the_command_that_goes_on(start, clean, tmp_path, name):
    undisturbed, parts, _ = clean("i2t2i")
    out = tmp_path / "a run"
    build = start("i2t2i", out)
    assert build.wait_for(lambda: build.parts > parts // 3)
    assert build.kill(name)
    died = time.monotonic()
    assert build.end() == 1
    assert time.monotonic() - died < 30
    # Ray's core is faster where the driver has just something to say to the raylet: between two stages.
    command = re.search(rf"error: .*{name}.* has died.*; this resumes it:\n  (.+)\n\Z", build.output)[1]
    assert shlex.split(command)[-1] == str(out)
    assert not [word for word in LOUD if word in build.output], build.output
    assert not list((out / "store" / "attempts").rglob("*.json"))
    again = start("i2t2i", out)
    assert again.end() == 0, again.output
    assert tables(out) == tables(undisturbed)


def test_a_finished_run_starts_no_process_and_takes_seconds(start, clean):
    out, _, _ = clean("i2t2i")
    before = tables(out)
    begin = time.monotonic()
    build = start("i2t2i", out)
    seen = []
    build.wait_for(lambda: bool(build.find("ray")) and seen.append(True))
    assert build.end() == 0, build.output
    assert not seen
    assert time.monotonic() - begin < 60
    assert tables(out) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own that is nearly full; needs a user who may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_the_build_goes_on_when_there_is_space(start, clean, small_disk):
    undisturbed, _, _ = clean("i2t2i")
    out = small_disk / "run"
    build = start("i2t2i", out)
    build.wait_for(lambda: bool(build.family()) and not build.running())
    assert build.end() == 1
    assert f"the disk of {small_disk}" in build.output.replace("\n", " ")
    assert "is full" in build.output
    assert not [word for word in LOUD if word in build.output], build.output
    assert build.parts > 0
    kept = {path: path.read_bytes() for path in (out / "store").rglob("*.parquet")}
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = start("i2t2i", out)
    assert again.end() == 0, again.output
    assert tables(out) == tables(undisturbed)
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_row(start, clean, tmp_path, folder):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    undisturbed, parts, _ = clean("i2t2i")
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 2**28}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=2**28)
        build = start("i2t2i", tmp_path / "run", address=cluster.address)
        assert build.wait_for(lambda: build.parts > parts // 3)
        cluster.remove_node(node, allow_graceful=False)
        status = build.end()
        if status:  # one clear error, and the same command goes on
            assert "a worker or its node was lost and did not come back" in build.output
            assert not [word for word in LOUD if word in build.output], build.output
            build = start("i2t2i", tmp_path / "run", address=cluster.address)
            assert build.end() == 0, build.output
        assert tables(tmp_path / "run") == tables(undisturbed)
        print(f"node lost: the build {'ended and went on' if status else 'went on by itself'}")
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_when_the_only_node_with_a_gpu_is_lost_the_build_waits_for_the_next_one(start, clean, tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    undisturbed, parts, _ = clean("i2t2i")
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 2**28}
    gpu = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 2**28}  # declared: there is none to use
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(**gpu)
        build = start("i2t2i", tmp_path / "run", address=cluster.address)
        assert build.wait_for(lambda: build.parts > parts // 3)
        cluster.remove_node(node, allow_graceful=False)
        time.sleep(20)
        assert build.running(), build.output
        cluster.add_node(**gpu)
        assert build.end() == 0, build.output
        assert tables(tmp_path / "run") == tables(undisturbed)
    finally:
        cluster.shutdown()
