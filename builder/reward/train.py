"""Training a reward model on preference datasets with the Bradley-Terry loss."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid
from torch.utils.data import ConcatDataset, Sampler, Subset
from transformers import (
    AutoConfig,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from builder.progress import Tick, stage
from builder.reward.card import write_card
from builder.reward.data import MODEL_INPUTS, Collate, PreferenceError, PreferenceSplit, load_preferences
from builder.reward.evaluate import accuracy_of, input_rewards
from builder.reward.model import RewardConfig, RewardModel
from builder.reward.settings import TrainSettings

HELD_OUT = ("validation", "test")
SPLITS = ("train", *HELD_OUT)


@dataclass(frozen=True)
class TrainResult:
    """What a training run made: a folder with the model, and the content of its metrics.json."""

    path: Path
    metrics: dict[str, Any]


def bradley_terry_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r_chosen - r_rejected) of each pair: its negative log-likelihood under Bradley & Terry (1952).

    Rewards and losses are (pairs,); differences of rewards are log-odds.
    """
    return -logsigmoid(chosen - rejected)


def combo_loss(losses: torch.Tensor, is_image_pair: torch.Tensor, image_weight: float) -> torch.Tensor:
    """L_text + lambda * L_image, each the mean over its pairs (CycleReward-Combo); without pairs a term is 0."""
    parts = ((losses[~is_image_pair], 1.0), (losses[is_image_pair], image_weight))
    return sum(weight * part.mean() for part, weight in parts if len(part))


def train_reward(
    datasets: Sequence[str | Path],
    start: str | Path,
    out: str | Path,
    settings: TrainSettings,
    progress: Callable[[str, int], AbstractContextManager[Tick]] = stage,
) -> TrainResult:
    """Train a reward model on the train splits of preference datasets; the epoch best on validation is kept.

    `start` is a BLIP captioner or a reward model, as a folder or Hub id. `out` receives the model, its processor, a
    model card and metrics.json: pairwise accuracy and pair counts for each cycle and split, settings, seconds.
    Sets the global random seeds: on one CPU type and thread count, equal arguments give equal weights. Rewards are
    shifted so that the mean over the training candidates is 0, which changes no difference. `progress` is given a label
    and the number of steps, and yields what is told of each.

    Raises:
        PreferenceError: if there are no datasets, one is broken (see `load_preferences`), two are of one cycle, or one
            has no pairs in its train split.
        ValueError: if `start` is a model of another architecture.
    """
    began = time.monotonic()
    splits = _load(datasets)
    set_seed(settings.seed)
    model = _start(start, settings)
    collate = Collate(model.processor, model.max_text_length, settings.pixel_cache_mb)
    train = [by_name["train"] for by_name in splits]
    validation = [s["validation"] for s in splits if "validation" in s and s["validation"].pair_count]
    before = _rewards(model, splits, collate, HELD_OUT)
    with tempfile.TemporaryDirectory(prefix="cyclepref-reward-") as scratch:
        trainer = RewardTrainer(model, train, validation, collate, settings, scratch)
        with progress("reward model: steps", settings.epochs * len(trainer.get_train_dataloader())) as tick:
            trainer.add_callback(_Report(tick))
            trainer.train()
    after = _rewards(model, splits, collate, SPLITS)
    average = torch.cat([reward for scored in after for reward in scored["train"]]).mean().item()
    model.config.reward_mean += model.config.reward_std * average
    metrics = {
        "pairwise_accuracy": _accuracy_table(splits, after, SPLITS),
        "pairwise_accuracy_before_training": _accuracy_table(splits, before, HELD_OUT),
        "kept": "best epoch on validation" if validation else "last epoch: there are no validation pairs",
        "epochs": _epochs(trainer.state.log_history),
        "start": str(start),
        "datasets": [str(path) for path in datasets],
        "settings": settings.model_dump(),
        "seconds": round(time.monotonic() - began, 1),
    }
    out = Path(out)
    model.save_pretrained(out)
    write_card(out, metrics)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return TrainResult(out, metrics)


def _load(datasets: Sequence[str | Path]) -> list[dict[str, PreferenceSplit]]:
    if not datasets:
        raise PreferenceError("no datasets to train on: give at least one folder")
    loaded = [load_preferences(path) for path in datasets]
    for path, splits in zip(datasets, loaded, strict=True):
        if "train" not in splits or not splits["train"].pair_count:
            raise PreferenceError(f"{path} has no pairs in its train split: build more inputs, or lower min_margin")
    cycles = [splits["train"].cycle for splits in loaded]
    if len(set(cycles)) < len(cycles):
        raise PreferenceError(f"each cycle can have one dataset, got {', '.join(cycles)}")
    return loaded


def _start(start: str | Path, settings: TrainSettings) -> RewardModel:
    """The model at the start of training, without what `fix_rate` freezes."""
    if AutoConfig.from_pretrained(start).model_type == RewardConfig.model_type:
        model = RewardModel.from_pretrained(start, dtype=torch.float32)
    else:
        model = RewardModel.from_captioner(start, **settings.head.model_dump())
    model.freeze(settings.fix_rate)
    return model


def _rewards(
    model: RewardModel, splits: list[dict[str, PreferenceSplit]], collate: Collate, names: Sequence[str]
) -> list[dict[str, list[torch.Tensor]]]:
    """For each dataset: split -> rewards of the candidates of each input."""
    model.eval()
    return [
        {name: input_rewards(model, by_name[name], collate) for name in names if name in by_name} for by_name in splits
    ]


def _accuracy_table(
    splits: list[dict[str, PreferenceSplit]], rewards: list[dict[str, list[torch.Tensor]]], names: Sequence[str]
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


def _epochs(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """Mean training loss of each epoch, and the accuracy on validation after it, if there was one to measure."""
    epochs: dict[float, dict[str, float]] = {}
    for entry in log:
        for name, key in (("loss", "loss"), ("eval_accuracy", "validation_accuracy")):
            if name in entry:
                epochs.setdefault(entry["epoch"], {"epoch": entry["epoch"]})[key] = entry[name]
    return list(epochs.values())


class RewardTrainer(Trainer):
    """transformers' Trainer with the Bradley-Terry loss, inputs as examples, and pairwise accuracy as its metric."""

    def __init__(
        self,
        model: RewardModel,
        train: list[PreferenceSplit],
        validation: list[PreferenceSplit],
        collate: Collate,
        settings: TrainSettings,
        scratch: str,
    ):
        self.settings = settings
        subsets = [Subset(split, split.with_pairs) for split in train]
        self.sizes = [len(subset) for subset in subsets]
        arguments = TrainingArguments(
            output_dir=scratch,
            seed=settings.seed,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.inputs_per_step,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            lr_scheduler_type="cosine",
            warmup_steps=settings.warmup_share,
            eval_strategy="epoch" if validation else "no",
            save_strategy="best" if validation else "no",
            load_best_model_at_end=bool(validation),
            metric_for_best_model="accuracy" if validation else None,
            greater_is_better=True,
            save_only_model=True,
            save_total_limit=1,
            logging_strategy="epoch",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            report_to="none",
        )
        super().__init__(
            model,
            arguments,
            data_collator=collate,
            train_dataset=ConcatDataset(subsets),
            eval_dataset=validation or None,
        )
        self.remove_callback(PrinterCallback)
        if validation and settings.patience is not None:
            self.add_callback(EarlyStoppingCallback(settings.patience))

    def compute_loss(
        self, model: RewardModel, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Combo loss of the pairs among one step's inputs."""
        rewards = model(**{name: inputs[name] for name in MODEL_INPUTS})
        losses = bradley_terry_loss(rewards[inputs["chosen"]], rewards[inputs["rejected"]])
        loss = combo_loss(losses, inputs["is_image_pair"], self.settings.image_weight)
        return (loss, rewards) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Pairwise accuracy on validation: the mean over cycles, so that the larger one does not decide alone."""
        found = [
            accuracy_of(split, input_rewards(self.model, split, self.data_collator)) for split in self.eval_dataset
        ]
        metrics = {"eval_accuracy": float(np.mean([each.accuracy for each in found]))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return Interleaved(self.sizes, self.args.seed)


class Interleaved(Sampler[int]):
    """Each epoch a new shuffle of several datasets, spread evenly: every step sees each in its proportion."""

    def __init__(self, sizes: list[int], seed: int):
        self.sizes, self.random = sizes, np.random.default_rng(seed)

    def __len__(self) -> int:
        return sum(self.sizes)

    def __iter__(self) -> Iterator[int]:
        offsets = np.cumsum([0, *self.sizes[:-1]])
        shuffled = [offset + self.random.permutation(size) for offset, size in zip(offsets, self.sizes, strict=True)]
        places = np.concatenate([(np.arange(size) + 0.5) / size for size in self.sizes])
        yield from np.concatenate(shuffled)[np.argsort(places, kind="stable")].tolist()


class _Report(TrainerCallback):
    """Counts steps."""

    def __init__(self, tick: Tick):
        self.tick = tick

    def on_step_end(self, args, state, control, **kwargs):
        self.tick(1)
