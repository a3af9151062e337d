"""Run directories on an object store: a real S3-compatible server on loopback."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from cyclepref.builder.run.lock import LockError, hold, holders
from cyclepref.builder.run.store import Store
from cyclepref.builder.run.upkeep import join_small, merge
from cyclepref.jobs.cli import main
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest

server = pytest.importorskip("moto.server", reason="needs the S3-compatible server of the `test` extra")

SECRET = "a-secret-that-must-not-be-written"
ROOT = Path(__file__).parents[3]

# Two builds of a growing recipe on the object store, and one of the whole recipe on disk, in one cluster.
BUILDS = """
import sys
from cyclepref.builder.build import build
from cyclepref.builder.engine import Engine
from cyclepref.schemas.recipe import parse_recipe

def recipe(inputs):
    return parse_recipe({
        "name": "test", "cycle": "i2t2i", "inputs": {"source": "shapeworld", "limit": inputs, "seed": 1},
        "forward": [{"model": "shapeworld-blip"}, {"model": "shapeworld-blip-early"}],
        "backward": {"model": "shapeworld-sd3", "settings": {"steps": 2}},
        "metric": {"metric": "lpips-shapeworld"}, "pairs": {"min_margin": 0.0, "poor_chosen": None},
    })

with Engine() as engine:
    build(recipe(3), sys.argv[1], engine=engine)
    grown = build(recipe(6), sys.argv[1], engine=engine)
    assert all(count["reused"] for count in grown["counts"]["candidates"].values()), grown["counts"]
    build(recipe(6), sys.argv[2], engine=engine)
again = Engine()
build(recipe(6), sys.argv[1], engine=again)
assert "cluster" not in vars(again)
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[dict[str, str]]:
    """The environment in which s3://bucket is a bucket of a server on this machine."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    yield values
    running.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch) -> str:
    """The address of a bucket with nothing in it."""
    import boto3

    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for each in client.list_objects_v2(Bucket="bucket").get("Contents", ()):
        client.delete_object(Bucket="bucket", Key=each["Key"])
    return "s3://bucket"


def failures(*names: str) -> pa.Table:
    rows = [{"id": digest(name), "stage": "s", "model": "m", "message": name} for name in names]
    return pa.Table.from_pylist(rows, schema=records.FAILURE)


def test_a_part_appears_whole_or_not_at_all(bucket):
    store = Store(f"{bucket}/run")

    def cut_off(sink):
        sink.write(b"x" * 6_000_000)  # more than an object store's client keeps to itself
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        store.write_file("store/failures/a.parquet", cut_off)
    assert store.parts("failures") == []
    store.write_part("failures", failures("a"))
    assert store.rows("failures")["message"].to_pylist() == ["a"]


def test_a_second_build_is_refused_and_a_dead_one_taken_over(bucket, caplog):
    store = Store(f"{bucket}/run")
    with hold(store, "build"), pytest.raises(LockError, match=r"s3://bucket/run is in use by `cyclepref build`"):  # noqa: SIM117
        with hold(Store(store.root), "build"):
            pass
    assert holders(store) == []
    code = (
        "import os, sys; from cyclepref.builder.run.lock import hold; from cyclepref.builder.run.store import Store\n"
    )
    code += "with hold(Store(sys.argv[1]), 'build'): os._exit(1)"
    subprocess.run([sys.executable, "-c", code, store.root], cwd=ROOT, check=False)
    assert len(holders(store)) == 1
    with hold(store, "build"):
        assert "taking over" in caplog.text


def test_parts_are_joined_and_runs_merged_between_a_disk_and_an_object_store(bucket, tmp_path):
    far, near = Store(f"{bucket}/run"), Store(tmp_path / "run")
    for name in "abc":
        far.write_part("failures", failures(name))
    near.write_part("failures", failures("d"))
    assert join_small(far, many=2) == 3
    assert merge(near, far, near).copied == 1
    assert sorted(near.rows("failures")["message"].to_pylist()) == list("abcd")


def test_a_bucket_that_is_not_there_is_one_clear_error(bucket, capsys):
    assert main(["status", "s3://no-such-bucket/run"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_a_build_on_an_object_store_equals_one_on_disk_and_holds_no_credentials(bucket, endpoint, tmp_path, capsys):
    script = tmp_path / "builds.py"
    script.write_text(textwrap.dedent(BUILDS))
    far, near = Store(f"{bucket}/run"), tmp_path / "near"
    environment = {**os.environ, **endpoint, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), far.root, str(near)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for view in ("candidates", "scores", "pairs"):
        name = f"{view}/part-0.parquet"
        assert far.read_file(name, lambda file: file.read()) == (near / name).read_bytes()
    shards = sorted(path.name for path in (near / "dataset" / "pairs").iterdir())
    assert far.names("dataset/pairs") == shards
    for name in ("run.json", "lock.json", "progress.json", "dataset/README.md"):
        assert SECRET.encode() not in far.read_file(name, lambda file: file.read())
    assert SECRET not in done.stdout + done.stderr
    assert main(["status", far.root, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "finished"
    assert [stage["stage"] for stage in found["stages"]][-1] == "scores"
