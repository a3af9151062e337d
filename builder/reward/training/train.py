"""Training a reward model on preference datasets; `train_reward` lists the steps of a run."""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as workers
from transformers import set_seed

from cyclepref.builder.common.progress import Stage, console, plain, stage
from cyclepref.builder.preferences.filters import Filters
from cyclepref.builder.preferences.rankings import Rankings
from cyclepref.builder.reward.card import write_card
from cyclepref.builder.reward.model import RewardConfig, RewardModel
from cyclepref.builder.reward.start import read_config, start_revision
from cyclepref.builder.reward.start_names import start_place
from cyclepref.builder.reward.training.accuracy import accuracy_of, input_rewards
from cyclepref.builder.reward.training.batches import Collate, Passes, inputs_for_pairs
from cyclepref.builder.reward.training.data import PreferenceError, PreferenceSplit, load_preferences
from cyclepref.builder.reward.training.prepare import prepare, wait, worker
from cyclepref.builder.reward.training.resume import METRICS, WORK, begun_with, claim, finished, go_on_from
from cyclepref.builder.reward.training.seen import Seen, read_seen, write_seen
from cyclepref.builder.reward.training.settings import TrainSettings
from cyclepref.builder.reward.training.step import TrainingView
from cyclepref.builder.reward.training.trainer import RewardTrainer
from cyclepref.builder.reward.training.writing import replace_text, writing
from cyclepref.schemas.ids import digest, fingerprint

HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)

Splits = list[dict[str, PreferenceSplit]]


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run: the model's folder, and the content of its metrics.json."""

    path: Path
    metrics: dict[str, Any]


def train_reward(
    datasets: Sequence[str | Path],
    start: str | Path,
    out: str | Path,
    settings: TrainSettings,
    progress: Stage = stage,
    revision: str | None = None,
    cache: str | Path | None = None,
    replace: bool = False,
) -> TrainResult:
    """Train a reward model on the train splits of preference datasets; the checkpoint best on validation is kept.

    `datasets` are read by `load_preferences`, at most one of each cycle; with both the loss is a Combo. `start` is a
    BLIP, CLIP or SigLIP, or a reward model, as a folder, as the name of weights that come with the package
    (shapeworld/blip), or as a Hub id at `revision`. A branch is resolved to a commit when training begins, and
    metrics.json names it. `out` receives the model, its processor, a model card and metrics.json: pairwise accuracy and
    pair counts for each cycle and split, settings, seconds. `out/work` holds checkpoints, from which the same call
    resumes after a stop, and the cache of the frozen layers' output, unless `cache` names another folder. With
    `replace`, another training's model in `out` is replaced.

    Sets the global random seeds: on one CPU type and thread count, equal arguments give equal weights. With the
    Bradley-Terry loss, rewards are shifted so that their mean over the training candidates is 0, which changes no
    difference. `progress` takes a label and a number of steps, and yields a function that counts them.

    Within a `torch.distributed` group (see builder/reward/training/workers.py) the workers share each step.

    Raises:
        LoadError: if a dataset cannot be read (PreferenceError: if it is inconsistent, two have the same cycle, or one
        has no pairs in its train split). RewardError: if `start` is a model of another architecture, or `out` holds the
        model or the
            checkpoints of another training, without `replace`, or the disk is full.
        UnreadableImage: if an image does not decode; the message names it. Interrupted: after Ctrl-C or SIGTERM, when
            the current step is saved.
    """
    began, out = time.monotonic(), Path(out)
    splits = _load(datasets, settings, progress)
    place = start_place(start)
    revision = start_revision(place, revision, begun_with(out))
    identity = run_identity(splits, place, revision, settings)
    if (metrics := finished(out, identity)) is not None:
        return TrainResult(out, metrics)
    set_seed(settings.seed)
    model, before_this = _start(place, revision, settings)
    checkpoints = claim(out, identity, replace)
    cached = Path(cache) if cache is not None else out / WORK / "prefixes"
    reader, collate = prepare(model, splits, settings, cached, progress)
    train = [by_name["train"] for by_name in splits]
    validation = [s["validation"] for s in splits if "validation" in s and s["validation"].pair_count]
    passes = _passes(train, settings)
    before = _rewards(reader, splits, collate, HELD_OUT, progress)
    with progress("reward model: steps", settings.epochs * passes.steps) as tick:
        trainer = RewardTrainer(reader, passes, validation, collate, settings, checkpoints, tick)
        done = go_on_from(checkpoints)
        if done is not None:
            console.print(plain(f"going on from {done}"), soft_wrap=True)
        set_seed(settings.seed)
        trainer.go_on(done)
    after = _rewards(reader, splits, collate, SPLITS, progress)
    if settings.loss != "mse":
        average = torch.cat([reward for scored in after for reward in scored["train"]]).mean().item()
        model.config.reward_mean += model.config.reward_std * average
    metrics = {
        "pairwise_accuracy": _accuracy_table(splits, after, SPLITS),
        "pairwise_accuracy_before_training": _accuracy_table(splits, before, HELD_OUT),
        "kept": "best epoch on validation" if validation else "last epoch: there are no validation pairs",
        "epochs": _epochs(trainer.state.log_history, settings.save_steps or passes.steps),
        "inputs_per_step": sum(len(split.with_pairs) for split in train) / passes.steps,
        "pairs_per_step": sum(split.pair_count for split in train) / passes.steps,
        "start": str(start),
        "revision": revision,
        "seen_before": "unknown" if before_this.missing else "listed",
        "datasets": [str(path) for path in datasets],
        "settings": settings.model_dump(),
        "identity": identity,
        "workers": worker()[1],
        "seconds": round(time.monotonic() - began, 1),
    }
    if worker()[0] == 0:
        _save(model, out, metrics, [split.rankings for split in train], before_this)
    wait()
    return TrainResult(out, metrics)


def run_identity(splits: Splits, start: str | Path, revision: str | None, settings: TrainSettings) -> dict[str, str]:
    """The identity of a run: its pairs, its start, and the settings that change the result."""
    pairs = [
        digest(name, *split.generation_ids, *(str(each) for each in zip(split.pairs, split.margins, strict=True)))
        for by_name in splits
        for name, split in by_name.items()
    ]
    other = {"inputs_per_pass", "pixel_cache_mb", "loaders", "start", "revision"}
    return {
        "pairs": digest(*pairs),
        "start": _identity_of_start(Path(start)) if Path(start).is_dir() else f"{start}@{revision}",
        "settings": fingerprint(settings.model_dump(mode="json", exclude=other)),
    }


def _identity_of_start(folder: Path) -> str:
    """An id of a folder's content, which does not depend on its path."""
    parts = []
    for file in sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".txt")):
        with file.open("rb") as opened:
            parts += [file.name, hashlib.file_digest(opened, "blake2b").hexdigest()]
    return digest(*parts)


def _load(datasets: Sequence[str | Path], settings: TrainSettings, progress: Stage) -> Splits:
    if not datasets:
        raise PreferenceError("no datasets to train on: give at least one")
    filters = Filters(**settings.pairs.model_dump())
    loaded = [load_preferences(source, filters, progress=progress) for source in datasets]
    for source, splits in zip(datasets, loaded, strict=True):
        if "train" not in splits or not splits["train"].pair_count:
            raise PreferenceError(
                f"{source} has no pairs in its train split (it has inputs in: {', '.join(splits)}): build more inputs, "
                "or lower min_margin"
            )
    cycles = [splits["train"].cycle for splits in loaded]
    if len(set(cycles)) < len(cycles):
        raise PreferenceError(f"each cycle can have one dataset, got {', '.join(cycles)}")
    return loaded


def _start(start: str | Path, revision: str | None, settings: TrainSettings) -> tuple[RewardModel, Seen]:
    """The model at the start of training, with frozen layers, and what it was trained on before as a reward model."""
    seen = Seen(set())
    if read_config(start, revision).model_type == RewardConfig.model_type:
        model = RewardModel.from_pretrained(start, revision=revision or "main", dtype=torch.float32)
        seen = read_seen(start, revision)
        if seen.missing:
            console.print(
                plain(f"leaks of {start}'s training inputs may be overlooked: {seen.missing}"), soft_wrap=True
            )
    else:
        model = RewardModel.from_backbone(start, revision=revision, **settings.head.model_dump())
    model.freeze(settings.fix_rate)
    return model.to(_device()), seen


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _passes(train: list[PreferenceSplit], settings: TrainSettings) -> Passes:
    per_step = settings.inputs_per_step
    if settings.pairs_per_step is not None:
        per_step = inputs_for_pairs(train, settings.pairs_per_step)
    return Passes(train, settings.seed, per_step, settings.inputs_per_pass or per_step, worker()[1])


def _rewards(
    reader: TrainingView, splits: Splits, collate: Collate, names: Sequence[str], progress: Stage
) -> list[dict[str, list[torch.Tensor]]]:
    """For each dataset: split -> rewards of the candidates of each input."""
    return [
        {name: _shared_rewards(reader, by_name[name], collate, progress) for name in names if name in by_name}
        for by_name in splits
    ]


def _shared_rewards(
    reader: TrainingView, split: PreferenceSplit, collate: Collate, progress: Stage
) -> list[torch.Tensor]:
    """As `input_rewards`; each worker scores its share, and all workers get the result."""
    rank, count = worker()
    rows = range(rank, len(split), count)
    with progress(f"reward model: {split.cycle} {split.name} scored", len(rows)) as tick:
        mine = input_rewards(reader.reward, split, (reader, collate), rows, tick)
    if count == 1:
        return mine
    parts: list[Any] = [None] * count
    workers.all_gather_object(parts, mine)
    return [parts[row % count][row // count] for row in range(len(split))]


def _accuracy_table(
    splits: Splits, rewards: list[dict[str, list[torch.Tensor]]], names: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """cycle -> split -> inputs, pairs, accuracy; a split without pairs has 0 and null."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for by_name, scored in zip(splits, rewards, strict=True):
        rows = table.setdefault(by_name["train"].cycle, {})
        for name in names:
            rows[name] = {"inputs": 0, "pairs": 0, "accuracy": None}
            if name in scored and by_name[name].pair_count:
                found = accuracy_of(by_name[name], scored[name])
                rows[name] = {"inputs": found.inputs, "pairs": found.pairs, "accuracy": found.accuracy}
    return table


def _epochs(log: list[dict[str, float]], every: int) -> list[dict[str, float]]:
    """The mean training loss of each epoch, or of `every` steps, and the validation accuracy after it, if measured. If
    a run was stopped in between, the loss logged until then is part of the mean."""
    epochs: dict[float, dict[str, float]] = {}
    total, last = 0.0, 0.0
    for entry in log:
        found = {}
        if "loss" in entry:
            total, last = total + entry["loss"] * (entry["step"] - last), entry["step"]
            if last % every == 0:
                found["loss"], total = total / every, 0.0
        if "eval_accuracy" in entry:
            found["validation_accuracy"] = entry["eval_accuracy"]
        if found:
            epochs.setdefault(entry["epoch"], {"epoch": entry["epoch"]}).update(found)
    return list(epochs.values())


def _save(model: RewardModel, out: Path, metrics: dict[str, Any], train: list[Rankings], before: Seen) -> None:
    """Save the model with its card, and metrics.json last: its existence means that training has ended."""
    with writing(out):
        model.save_pretrained(out)
        write_card(out, metrics)
        write_seen(out, train, before.ids)
        replace_text(out / METRICS, json.dumps(metrics, indent=2) + "\n")
    shutil.rmtree(out / WORK / "checkpoints")
