"""Publishing through the real client, in processes of its own, to a Hub-shaped server on loopback.

What this cannot show is the Xet protocol, which the client uses with the real Hub: it is switched off here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_run import make_run
from hub_server import READER, WRITER, Hub, hub_server

from cyclepref.builder.dataset import shards, write
from cyclepref.builder.dataset.edition import release
from cyclepref.builder.dataset.publish import PublishError, check_name, prepare
from cyclepref.builder.dataset.reader import DatasetError
from cyclepref.builder.run.folder import Folder

ROOT = Path(__file__).parents[3]
REPO = "org/name"


@pytest.fixture
def hub():
    with hub_server() as running:
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return make_finished(tmp_path_factory.mktemp("run"))


def make_finished(place: Path, inputs: int = 20, side: int = 24, **recipe) -> Path:
    """A run directory as a finished build leaves it."""
    made = make_run(place, inputs=inputs, side=side, **recipe)
    earlier = made.store.read_json("run.json")
    counts = release(made.facts, made.views, made.accountant(), None, earlier and earlier["counts"])
    made.store.write_json("run.json", {"recipe": made.recipe.model_dump(mode="json"), "counts": counts})
    made.store.write_json("progress.json", {"state": "finished", "recipe": "test", "stages": [], "updated": 0})
    return place


@pytest.fixture
def cli(hub, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    def run(*arguments: str, token: str | None = WRITER, code: str | None = None, **changes: str):
        environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
        environment |= {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
        }
        environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "COLUMNS": "200"}
        environment |= {"HF_TOKEN": token} if token else {}
        command = [sys.executable, *(["-c", code] if code else ["-m", "cyclepref.jobs.cli", *arguments])]
        done = subprocess.run(command, env={**environment, **changes}, capture_output=True, text=True, timeout=300)
        assert WRITER not in done.stdout + done.stderr
        assert READER not in done.stdout + done.stderr
        return done

    return run


def published(cli, place: Path, *options: str, **changes) -> subprocess.CompletedProcess:
    return cli("publish", str(place), "--repo", REPO, *options, **changes)


def error_of(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    return " ".join(done.stderr.split("error: ", 1)[1].split())


def local_files(place: Path) -> dict[str, bytes]:
    root = place / "dataset"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def remote_files(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    return {name: blob.data for name, blob in hub.files(REPO, branch).items() if name != ".gitattributes"}


def test_what_is_published_is_what_was_prepared_and_a_second_time_makes_no_commit(cli, hub, finished):
    first = published(cli, finished, "--private")
    assert first.returncode == 0, first.stderr
    assert "published: " in first.stdout
    assert remote_files(hub) == local_files(finished)
    assert hub.repos["datasets", REPO].private
    assert hub.commits(REPO) == 2
    card_first = [path for method, path in hub.log if method == "POST" and "/commit/" in path]
    assert len(card_first) == 2
    assert set(hub.repos["datasets", REPO].branches["main"][1][1]) == {".gitattributes", *local_files(finished)} - {
        "README.md"
    }
    sent = sum(method == "PUT" for method, _ in hub.log)
    second = published(cli, finished, "--private")
    assert "nothing has changed, so nothing was committed" in second.stdout
    assert hub.commits(REPO) == 2
    assert sum(method == "PUT" for method, _ in hub.log) == sent


def test_a_dataset_loaded_from_the_hub_is_the_local_one(cli, hub, finished):
    assert published(cli, finished).returncode == 0
    code = f"""
import datasets, json
equal = {{}}
for config in ("rankings", "pairs"):
    far, near = datasets.load_dataset({REPO!r}, config), datasets.load_dataset({str(finished / "dataset")!r}, config)
    equal[config] = [sorted(far) == sorted(near), *(far[s].data.table.equals(near[s].data.table) for s in near)]
    equal[config] += [far[s].features == near[s].features for s in near]
print(json.dumps(equal))
"""
    done = cli(code=code)
    assert done.returncode == 0, done.stderr
    equal = json.loads(done.stdout.splitlines()[-1])
    assert all(equal["rankings"]), equal
    assert all(equal["pairs"]), equal


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("PUT", "/lfs/", 400),
        pytest.param("PUT", "/lfs/", 0, marks=pytest.mark.slow),  # the client tries a cut line again for 20 seconds
        ("POST", "/commit/", 500),
        ("POST", "/preupload/", 400),
    ],
)
def test_a_break_half_way_says_so_and_the_same_command_ends_it(cli, hub, finished, method, path, code):
    hub.make(REPO)
    hub.fail(method, path, code, after=2 if method == "PUT" else 1 if "commit" in path else 0)
    said = error_of(published(cli, finished))
    assert "run the same command again: what has arrived is not sent twice" in said
    assert "README.md" not in remote_files(hub)
    arrived = set(hub.objects)
    hub.failures.clear()
    hub.log.clear()
    assert published(cli, finished).returncode == 0
    assert remote_files(hub) == local_files(finished)
    again = {path.removeprefix("/lfs/") for method, path in hub.log if method == "PUT"}
    assert not again & arrived


def test_a_new_edition_replaces_the_files_of_the_old_one_and_leaves_what_is_not_ours(cli, hub, tmp_path):
    place = make_finished(tmp_path / "run")
    assert published(cli, place).returncode == 0
    old = local_files(place)
    mine = {"notes/mine.txt": b"mine", "pairs/human-labels.csv": b"a,b", "pictures/figure1.png": b"figure"}
    hub.add(REPO, {**mine, "rankings/a.parquet": b"rows"})
    make_finished(place, pairs={"min_margin": 0.3, "poor_chosen": None})
    assert published(cli, place).returncode == 0
    now = remote_files(hub)
    assert now == {**local_files(place), **mine, "rankings/a.parquet": b"rows"}
    assert not set(old) - {"README.md"} & now.keys()
    before = hub.repos["datasets", REPO].branches["main"][-2][1]
    assert set(old) <= set(before), "the old edition is whole until its card is replaced"


PUSHED = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ({"README.md": b"# Our labels\n"}, ["--revision", "v2"]),
        ({"README.md": PUSHED}, []),
        ({"README.md": b"---\nlicense: mit\n---\n", "a.csv": b""}, []),
    ],
)
def test_somebodys_other_dataset_is_refused_and_left_as_it_is(cli, hub, finished, files, options):
    hub.make(REPO)
    hub.add(REPO, files)
    assert "org/name holds another dataset" in error_of(published(cli, finished, *options))
    assert remote_files(hub) == files
    assert list(hub.repos["datasets", REPO].branches) == ["main"]


@pytest.mark.parametrize("card", [b"", b"---\r\nlicense: mit\r\n---\r\n"])
def test_a_repository_as_the_hub_makes_it_is_published_to(cli, hub, finished, card):
    hub.make(REPO)
    hub.add(REPO, {"README.md": card})
    assert published(cli, finished).returncode == 0
    assert remote_files(hub) == local_files(finished)


def test_the_dataset_of_another_cycle_takes_the_place_of_ones_own(cli, hub, finished, tmp_path):
    assert published(cli, finished).returncode == 0
    other = make_finished(tmp_path / "run", cycle="i2t2i")
    assert published(cli, other).returncode == 0
    assert remote_files(hub) == local_files(other)


def test_a_branch_is_made_and_main_is_left_alone(cli, hub, finished):
    hub.make(REPO)
    assert published(cli, finished, "--revision", "v2").returncode == 0
    assert remote_files(hub, "v2") == local_files(finished)
    assert remote_files(hub) == {}


def test_a_dry_run_lists_the_files_and_touches_no_network(cli, hub, finished):
    done = published(cli, finished, "--dry-run", token=None, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert hub.log == []
    assert all(name in done.stdout for name in local_files(finished))
    assert "nothing was sent" in done.stdout


def test_no_token_a_wrong_one_or_one_that_may_not_write_are_told_apart(cli, hub, finished):
    assert "no token for the Hub: log in with `hf auth login`" in error_of(published(cli, finished, token=None))
    assert hub.log == []
    assert "does not know this token (401)" in error_of(published(cli, finished, token="hf_unknownSecret"))
    hub.make(REPO)
    assert "this token may not write to org/name (403)" in error_of(published(cli, finished, token=READER))
    assert remote_files(hub) == {}


def test_a_new_repository_that_may_not_be_made_is_a_matter_of_permission(cli, hub, finished):
    assert "this token may not write to org/name (403)" in error_of(published(cli, finished, token=READER))


@pytest.mark.parametrize("kind", ["model", "space"])
def test_a_repository_of_another_kind_is_refused(cli, hub, finished, kind):
    hub.make(REPO, f"{kind}s")
    assert f"org/name is a {kind} on the Hub, and no dataset" in error_of(published(cli, finished))


def test_a_public_repository_is_not_taken_for_a_private_one(cli, hub, finished):
    hub.make(REPO)
    assert "is public, so it would not be private" in error_of(published(cli, finished, "--private"))
    assert remote_files(hub) == {}


def test_a_server_that_is_not_there_is_one_clear_error(cli, finished):
    said = error_of(published(cli, finished, HF_ENDPOINT="http://127.0.0.1:9"))
    assert "publishing org/name broke off" in said


@pytest.mark.parametrize("name", ["name", "a/b/c", "org/na me", "org/--x", "/name", "org/" + "x" * 200, ""])
def test_a_name_that_is_no_repository_is_refused_with_the_rule(name):
    with pytest.raises(PublishError, match=r"is no repository \(.+\): give ORG/NAME"):
        check_name(name)


def test_a_run_that_has_not_finished_is_published_only_in_part_and_says_what_is_missing(finished, tmp_path):
    made = make_run(tmp_path / "new")
    made.store.write_json("progress.json", {"state": "stopped", "recipe": "test", "stages": [], "updated": 0})
    with pytest.raises(PublishError, match=r"has no dataset yet: the latest build is stopped"):
        prepare(str(tmp_path / "new"), partial=True)
    release(made.facts, made.views, made.accountant(), None, None)
    (tmp_path / "link").symlink_to(tmp_path / "new" / "dataset")
    for name in ("new", "new/dataset", "new/dataset/", "link"):
        with pytest.raises(PublishError, match=r"is not complete: the latest build is stopped.*--partial"):
            prepare(f"{tmp_path}/{name}")
    assert list(prepare(str(tmp_path / "new"), partial=True).files)[-1] == "README.md"
    assert set(prepare(str(finished)).files) == set(local_files(finished))
    assert prepare(str(finished / "dataset")).files == prepare(str(finished)).files


def test_few_inputs_are_published_with_fewer_splits_and_that_is_said(cli, tmp_path):
    place = make_finished(tmp_path / "run", splits={"train": 0.999, "validation": 0.001, "test": 0.0})
    note = "the split validation has no inputs, as is likely of 20 inputs: it is published without"
    assert prepare(str(place)).notes == (note,)
    assert note in published(cli, place, "--dry-run", token=None).stdout
    assert prepare(str(place / "dataset")).notes == prepare(str(place)).notes


@pytest.mark.parametrize("into", ["train", "validation"])
def test_a_split_that_should_not_be_empty_is_refused_unless_asked_for(tmp_path, monkeypatch, into):
    monkeypatch.setattr(write, "split_of", lambda *_: into)
    place = make_finished(tmp_path, splits={"train": 0.5, "validation": 0.5, "test": 0.0})
    other = {"train": "validation", "validation": "train"}[into]
    for folder in (place, place / "dataset"):
        with pytest.raises(PublishError, match=rf"the split {other} has no inputs.*share of 0 in the recipe"):
            prepare(str(folder))
    assert prepare(str(place), partial=True).files


def test_a_dataset_without_a_split_to_learn_from_is_refused_however_small(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "split_of", lambda *_: "test")
    place = make_finished(tmp_path, inputs=2, splits={"train": 0.5, "validation": 0.25, "test": 0.25})
    with pytest.raises(PublishError, match="the split train has no inputs"):
        prepare(str(place))


def test_files_that_the_card_does_not_name_are_not_published(tmp_path):
    place = make_finished(tmp_path)
    (place / "dataset" / "rankings" / "train-other-00000.parquet").write_bytes(b"an edition of old")
    (place / "dataset" / "pictures" / "other.png").write_bytes(b"of old")
    (place / "dataset" / "secret.txt").write_text("not ours")
    files = prepare(str(place)).files
    assert not [name for name in files if "other" in name or "secret" in name]
    assert Folder(place / "dataset").exists("secret.txt")


HELD_MOST = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


@pytest.mark.skipif(sys.platform != "linux", reason="what a process held at most is read from /proc")
def test_memory_does_not_grow_with_what_is_uploaded(cli, hub, tmp_path):
    peaks, sizes = [], []
    for inputs in (4, 44):
        shares = {"train": 1.0, "validation": 0.0, "test": 0.0}
        place = make_finished(tmp_path / str(inputs), inputs, side=400, splits=shares)
        sizes.append(sum(map(len, local_files(place).values())))
        command = ["publish", str(place), "--repo", f"org/of-{inputs}"]
        done = cli(code=f"from cyclepref.jobs.cli import main; assert main({command}) == 0; {HELD_MOST}")
        assert done.returncode == 0, done.stderr
        peaks.append(1024 * int(done.stdout.split()[-1]))
    assert sizes[1] - sizes[0] > 50 * 2**20
    assert peaks[1] - peaks[0] < 12 * 2**20, (peaks, sizes)


@pytest.mark.parametrize(
    ("gone", "said"), [(0, "there is no file rankings/train-.*-00000"), (-1, "rows, and the card says")]
)
def test_a_missing_shard_is_noticed_and_made_again(tmp_path, monkeypatch, gone, said):
    monkeypatch.setattr(shards, "BATCH_BYTES", 1)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    place = make_finished(tmp_path)
    whole = local_files(place)
    found = sorted((place / "dataset" / "rankings").glob("train-*"))
    assert len(found) > 2
    found[gone].unlink()
    for folder in (place, place / "dataset"):
        with pytest.raises(DatasetError, match=said):
            prepare(str(folder))
    make_finished(place)
    assert local_files(place) == whole
