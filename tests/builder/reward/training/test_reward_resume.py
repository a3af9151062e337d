"""Training that was stopped goes on to the model of one that never was, wherever its folder is by then."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from cyclepref.builder.common.stopping import Interrupted
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.start import start_revision
from cyclepref.builder.reward.training import train
from cyclepref.builder.reward.training.resume import begun_with, last_checkpoint
from cyclepref.builder.reward.training.settings import HeadSettings, TrainSettings
from cyclepref.builder.reward.training.train import train_reward

UNLIMITED = resource.getrlimit(resource.RLIMIT_FSIZE)
# Steps so small that no epoch is better than the first, though none has its weights.
SLOW = TrainSettings(
    epochs=3, inputs_per_step=4, learning_rate=1e-7, prefix_cache=None, head=HeadSettings(head_sizes=(8,))
)


class Stop(Exception):
    """What a kill is to a test."""


@pytest.fixture(scope="module")
def dataset(build):
    return build("i2t2i", train=8, validation=3)


@pytest.fixture(scope="module")
def whole(dataset, captioner, tmp_path_factory):
    """A training of SLOW that nothing stopped; only to be read."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train_reward([dataset], captioner, out, SLOW)
    return out


@pytest.fixture
def killed_in_the_final_scoring(monkeypatch):
    """Train, and be killed when all steps are done."""

    def killed(*arguments):
        def scored(reader, splits, collate, names, progress, before=train._rewards):
            if names == train.SPLITS:
                raise Stop
            return before(reader, splits, collate, names, progress)

        with monkeypatch.context() as patch:
            patch.setattr(train, "_rewards", scored)
            with pytest.raises(Stop):
                train_reward(*arguments)

    return killed


def assert_same(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name, atol=0, rtol=0)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("patience", [None, 1])
def test_killed_in_the_final_scoring_it_keeps_the_same_epoch(
    whole, dataset, captioner, tmp_path, killed_in_the_final_scoring, patience
):
    settings = SLOW.model_copy(update={"patience": patience})
    if patience is not None:
        whole = train_reward([dataset], captioner, tmp_path / "whole", settings).path
    killed_in_the_final_scoring([dataset], captioner, tmp_path / "killed", settings)
    train_reward([dataset], captioner, tmp_path / "killed", settings)
    assert_same(whole, tmp_path / "killed")
    assert metrics(tmp_path / "killed")["epochs"] == metrics(whole)["epochs"]
    assert len(metrics(whole)["epochs"]) == (3 if patience is None else 2)


def test_a_folder_that_was_moved_or_is_named_from_elsewhere_keeps_its_best_epoch(
    whole, dataset, captioner, tmp_path, killed_in_the_final_scoring, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    killed_in_the_final_scoring([dataset], captioner, "first", SLOW)
    shutil.copytree("first", "copied")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    train_reward([dataset], captioner, "../first", SLOW)
    train_reward([dataset], captioner, tmp_path / "copied", SLOW)
    assert_same(whole, tmp_path / "first")
    assert_same(whole, tmp_path / "copied")


def signalling(at, times):
    """Progress that sends this process and those that load for it, in the middle of training, so many Ctrl-C."""

    @contextmanager
    def progress(label, steps):
        done = []

        def tick(count):
            done.extend(range(count))
            if label == "reward model: steps" and len(done) == at:
                for _ in range(times):
                    for process in (os.getpid(), *(each.pid for each in multiprocessing.active_children())):
                        os.kill(process, signal.SIGINT)
                    time.sleep(0.05)

        yield tick

    return progress


@pytest.mark.parametrize("changes", [{}, {"save_steps": 3}, {"loaders": 1, "patience": 2}])
def test_a_first_ctrl_c_saves_the_step_and_what_goes_on_makes_the_same_model(dataset, captioner, tmp_path, changes):
    settings = SLOW.model_copy(update={"inputs_per_step": 1, "learning_rate": 1e-3, **changes})
    train_reward([dataset], captioner, tmp_path / "whole", settings)
    with pytest.raises(Interrupted):
        train_reward([dataset], captioner, tmp_path / "stopped", settings, signalling(10, 1))
    saved = last_checkpoint(tmp_path / "stopped" / "work" / "checkpoints").name
    assert saved in ("checkpoint-10", "checkpoint-11")
    train_reward([dataset], captioner, tmp_path / "stopped", settings)
    assert_same(tmp_path / "whole", tmp_path / "stopped")
    whole, stopped = (metrics(tmp_path / name)["epochs"] for name in ("whole", "stopped"))
    assert len(whole) == len(stopped)
    for one, other in zip(whole, stopped, strict=True):
        assert one == pytest.approx(other)


def test_a_second_ctrl_c_stops_at_once(dataset, captioner, tmp_path):
    settings = SLOW.model_copy(update={"inputs_per_step": 1})
    with pytest.raises(KeyboardInterrupt) as stopped:
        train_reward([dataset], captioner, tmp_path, settings, signalling(10, 2))
    assert stopped.type is KeyboardInterrupt
    assert last_checkpoint(tmp_path / "work" / "checkpoints").name == "checkpoint-8"


def test_a_ctrl_c_in_the_last_step_of_an_epoch_waits_for_its_validation(dataset, captioner, tmp_path):
    settings = SLOW.model_copy(update={"inputs_per_step": 1, "patience": 1})
    with pytest.raises(Interrupted):
        train_reward([dataset], captioner, tmp_path, settings, signalling(8, 1))
    state = json.loads((last_checkpoint(tmp_path / "work" / "checkpoints") / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_accuracy" in entry] == [8]


def test_without_the_best_checkpoint_it_does_not_go_on(dataset, captioner, tmp_path, killed_in_the_final_scoring):
    killed_in_the_final_scoring([dataset], captioner, tmp_path, SLOW)
    checkpoints = tmp_path / "work" / "checkpoints"
    assert last_checkpoint(checkpoints).name == "checkpoint-6"
    shutil.rmtree(checkpoints / "checkpoint-2")
    with pytest.raises(RewardError, match="checkpoint-2, the best so far, is missing: put it back, or delete"):
        train_reward([dataset], captioner, tmp_path, SLOW)


@pytest.mark.parametrize("save_steps", [None, 1, 3])
def test_patience_is_a_number_of_epochs_however_often_it_is_validated(dataset, captioner, tmp_path, save_steps):
    settings = SLOW.model_copy(update={"epochs": 9, "patience": 2, "save_steps": save_steps, "inputs_per_step": 2})
    result = train_reward([dataset], captioner, tmp_path, settings)  # 4 steps an epoch
    validated = {None: [1, 2, 3], 1: [step / 4 for step in range(1, 10)], 3: [0.75, 1.5, 2.25, 3]}
    assert [entry["epoch"] for entry in result.metrics["epochs"]] == validated[save_steps]


def full_disk(size):
    """Progress after whose beginning no file can grow beyond so many bytes, which a write is told like a full disk."""

    @contextmanager
    def progress(label, steps):
        if label in ("reward model: frozen half of images", "reward model: steps"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, UNLIMITED[1]))
        yield lambda done: None

    return progress


@pytest.fixture
def _room_again():
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("_room_again")
@pytest.mark.parametrize(
    ("changes", "size", "place"),
    [
        ({"prefix_cache": "float32"}, 1000, "prefixes/image-.*"),
        ({}, 1000, "checkpoints"),
        ({"fix_rate": 0}, 300_000, "checkpoints"),  # room for the weights, and not for the optimizer's state
    ],
)
def test_a_full_disk_is_one_clear_error_and_with_room_it_goes_on(dataset, captioner, tmp_path, changes, size, place):
    settings = SLOW.model_copy(update={"epochs": 1, **changes})
    with pytest.raises(RewardError, match=rf"cannot write to .*work/{place} .* MB free.: make room"):
        train_reward([dataset], captioner, tmp_path, settings, full_disk(size))
    resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)
    assert not list(tmp_path.rglob("*.tmp"))
    train_reward([dataset], captioner, tmp_path, settings)
    assert metrics(tmp_path)["settings"]["epochs"] == 1


def test_a_training_that_goes_on_keeps_the_commit_it_began_with(tmp_path):
    commit = "a" * 40
    assert start_revision("org/start", None, f"org/start@{commit}") == commit  # and no Hub is asked: tests have none
    assert start_revision("org/start", commit) == commit
    assert start_revision(tmp_path, None) is None
    with pytest.raises(RewardError, match="cannot find org/start at revision 'v2'"):
        start_revision("org/start", "v2", f"org/start@{commit}")
    noted = tmp_path / "work" / "run.json"
    checkpoint = tmp_path / "work" / "checkpoints" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    noted.write_text(json.dumps({"start": f"org/start@{commit}"}))
    assert begun_with(tmp_path) is None  # nothing was saved
    (checkpoint / "trainer_state.json").write_text("{}")
    assert begun_with(tmp_path) == f"org/start@{commit}"
    (tmp_path / "metrics.json").write_text("{}")
    assert begun_with(tmp_path) is None  # it has ended
