"""transformers' Trainer for reward models: steps of whole inputs, losses over pairs, and pairwise accuracy."""

import logging
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from cyclepref.builder.common.progress import Tick, console, plain
from cyclepref.builder.common.stopping import Interrupted, stop_requests
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.training.accuracy import input_rewards, right_of
from cyclepref.builder.reward.training.batches import Collate, Passes
from cyclepref.builder.reward.training.data import PreferenceSplit
from cyclepref.builder.reward.training.resume import STATE
from cyclepref.builder.reward.training.settings import TrainSettings
from cyclepref.builder.reward.training.step import Batch, TrainingView, counts, loss_of
from cyclepref.builder.reward.training.writing import writing

log = logging.getLogger("cyclepref.reward")

WEIGHTS = "model.safetensors"


class RewardTrainer(Trainer):
    """Trains the reward model of a `TrainingView` on `Passes`; each checkpoint is a reward model of its own.

    Raises:
        RewardError: if the loss is not a finite number, or a checkpoint has another shape.
    """

    def __init__(
        self,
        reader: TrainingView,
        passes: Passes,
        validation: list[PreferenceSplit],
        collate: Collate,
        settings: TrainSettings,
        checkpoints: Path,
        tick: Tick,
    ):
        self.settings, self.collate, self.validation = settings, collate, validation
        arguments = training_arguments(settings, passes, bool(validation), checkpoints)
        super().__init__(
            reader, arguments, data_collator=collate.one_pass, train_dataset=passes, eval_dataset=validation or None
        )
        # Losses are already shares of a step (see `loss_of`); a mean over passes would make them smaller.
        self.loss_is_scaled_for_ga = True
        for unwanted in (PrinterCallback, ProgressCallback):
            self.remove_callback(unwanted)
        self.stop = threading.Event()
        self.add_callback(Watch(tick, self.stop))
        self.add_callback(Patience(settings.patience))

    def go_on(self, done: Path | None) -> None:
        """Train to the end, from a checkpoint if there is one, and load the kept weights.

        Raises:
            Interrupted: after a first Ctrl-C or SIGTERM, when the step in flight is in a checkpoint.
        """
        if done is not None:
            state = TrainerState.load_from_json(str(done / STATE))
            if patience_is_over(state, self.settings.patience):  # `train` would make one more step before checking it
                self.state = state
                self._load_best_model()
                return
        # Only for a single process: several workers would have to agree on the step at which to stop.
        with stop_requests(self.stop.set) if self.args.world_size == 1 else nullcontext():
            self.train(resume_from_checkpoint=str(done) if done is not None else None)
        if self.stop.is_set():  # all steps are done and saved
            raise Interrupted

    # ---- one step ------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The passes of one step, and its numbers of pairs and examples over all workers (see `counts`)."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        mine = torch.stack([counts(batch) for batch in batches]).sum(0) if batches else torch.zeros(3)
        return batches, self.accelerator.reduce(mine.to(device), "sum")

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The loss of one pass, as its share of its step."""
        of = counts(inputs).to(inputs["chosen"].device) if num_items_in_batch is None else num_items_in_batch
        rewards = model(**inputs)
        # Gradients are averaged over workers, but the losses are shares of a sum.
        loss = loss_of(rewards, inputs, self.settings, of) * self.accelerator.num_processes
        return (loss, rewards) if return_outputs else loss

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    # ---- validation ----------------------------------------------------------------------------------------------

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Pairwise accuracy on validation: the mean over cycles, so that the larger cycle does not dominate. Each
        worker scores its share."""
        reader = self.accelerator.unwrap_model(self.model)
        right = torch.zeros(len(self.validation), 2, dtype=torch.float64, device=self.args.device)
        for at, split in enumerate(self.validation):
            rows = range(self.accelerator.process_index, len(split), self.accelerator.num_processes)
            rewards = input_rewards(reader.reward, split, (reader, self.collate), rows)
            right[at] = torch.tensor(right_of([split.pairs[row] for row in rows], rewards))
        right = self.accelerator.reduce(right, "sum")
        metrics = {"eval_accuracy": float((right[:, 0] / right[:, 1]).mean())}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        with writing(Path(self.args.output_dir)):
            super()._save_checkpoint(*arguments, **named)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            self.accelerator.unwrap_model(self.model).reward.save_pretrained(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.accelerator.unwrap_model(self.model).reward, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_weights(self.accelerator.unwrap_model(self.model).reward, Path(self.state.best_model_checkpoint))


def training_arguments(
    settings: TrainSettings, passes: Passes, validated: bool, checkpoints: Path
) -> TrainingArguments:
    """Our settings in transformers' words: one example is one pass.

    Raises:
        RewardError: if this machine does not support the precision.
    """
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise RewardError("precision fp16 needs a GPU: set it to fp32 or bf16")
    when: dict[str, Any] = {"logging_strategy": "epoch", "save_strategy": "epoch"}
    if settings.save_steps is not None:
        when = {"logging_strategy": "steps", "logging_steps": settings.save_steps}
        when |= {"save_strategy": "steps", "save_steps": settings.save_steps, "eval_steps": settings.save_steps}
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        seed=settings.seed,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_share,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        **when,
        eval_strategy=when["save_strategy"] if validated else "no",
        load_best_model_at_end=validated,
        metric_for_best_model="accuracy" if validated else None,
        greater_is_better=True,
        save_total_limit=2,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=settings.loaders,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    # Each GPU has a worker of its own; transformers would split a pass among the GPUs.
    arguments._n_gpu = min(1, arguments.n_gpu)
    arguments.gradient_accumulation_steps = passes.passes_per_step // arguments.world_size
    return arguments


def load_weights(reward: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a reward model.

    Raises:
        RewardError: if they belong to a model of another shape.
    """
    weights, own = load_file(checkpoint / WEIGHTS), reward.state_dict()
    different = [name for name in {**own, **weights} if _shape(own, name) != _shape(weights, name)]
    if different:
        name = different[0]
        raise RewardError(
            f"{checkpoint} belongs to a model of another shape: {name} is {_shape(weights, name)} there and "
            f"{_shape(own, name)} here ({len(different)} in all): train with the checkpoint's settings, or "
            "into another folder"
        )
    reward.load_state_dict(weights)


def _shape(weights: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(weights[name].shape) if name in weights else "missing"


def patience_is_over(state: TrainerState, patience: int | None) -> bool:
    """Whether at the last validation `patience` epochs had passed since the best one. It depends on the state alone, so
    that a resumed training ends where it would have ended without the stop."""
    validated = [entry["step"] for entry in state.log_history if "eval_accuracy" in entry]
    if patience is None or not validated:
        return False
    since = validated[-1] - (state.best_global_step or 0)
    return since * state.num_train_epochs >= patience * state.max_steps


class Patience(TrainerCallback):
    """Ends a training that no longer improves. It checks at each save, when the best checkpoint is known."""

    def __init__(self, patience: int | None):
        self.patience = patience

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if patience is over."""
        control.should_training_stop = control.should_training_stop or patience_is_over(state, self.patience)


class Watch(TrainerCallback):
    """Counts steps, and stops the training on request, or if the loss is not finite."""

    def __init__(self, tick: Tick, stop: threading.Event):
        self.tick, self.stop = tick, stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the steps of an earlier run as done."""
        if state.global_step:
            self.tick(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step, and save it if a stop was requested. The last step of an epoch is saved anyway, after
        validation."""
        self.tick(1)
        saved_soon = args.save_strategy == "epoch" and state.global_step * state.num_train_epochs % state.max_steps == 0
        if self.stop.is_set() and not saved_soon:
            control.should_save = control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the training if a stop was requested, by raising: `train` would first validate the model within an epoch.

        Raises:
            Interrupted: if a stop was requested.
        """
        if self.stop.is_set():
            console.print(plain(f"step {state.global_step} of {state.max_steps} is saved"), soft_wrap=True)
            raise Interrupted

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Log the loss.

        Raises:
            RewardError: if the loss is not finite.
        """
        loss = (logs or {}).get("loss")
        if loss is not None:
            log.info("step %d of %d: loss %.4f", state.global_step, state.max_steps, loss)
            if not np.isfinite(loss):
                raise RewardError(
                    f"the loss at step {state.global_step} is {loss}: lower learning_rate, or train with precision bf16"
                )
