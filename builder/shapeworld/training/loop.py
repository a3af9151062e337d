"""The training loop that every model here shares: bf16 autocast where it is fast, AdamW, a moving average, progress.

Only the job's name and the step's number seed a step, so an interrupted and resumed run has the same batches and noise.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

CHECKPOINT_SECONDS = 120
_EMA_DECAY = 0.998
_WARM_UP = 100
_REPORT_EVERY = 50


@dataclass(frozen=True)
class Run:
    """The settings of a training run: weights folder, checkpoint folder, device, a factor on all step counts."""

    out: Path
    work: Path
    device: torch.device
    scale: float = 1.0

    def steps(self, steps: int) -> int:
        """A step count under this run's scale, at least 2."""
        return max(2, round(steps * self.scale))


@dataclass(frozen=True)
class Progress:
    """The progress of a model when it was exported: steps done and planned, examples seen, seconds of training."""

    step: int
    steps: int
    examples: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """One model to train.

    `loss(model, step)` returns a scalar for `batch` examples, which it draws itself and which depend on `step` alone.
    `export(model, progress)` is called `exports` times on the way and at the end, with the averaged weights.
    """

    name: str
    model: nn.Module
    loss: Callable[[nn.Module, int], torch.Tensor]
    export: Callable[[nn.Module, Progress], None]
    steps: int
    batch: int
    lr: float
    exports: int = 8


def step_seed(name: str, step: int) -> int:
    """A 63-bit seed for a step of a job, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{name}/{step}".encode(), digest_size=8).digest(), "big") >> 1


def fit(job: Job, run: Run) -> None:
    """Train a job to its end, from its last checkpoint if there is one; a finished job is only exported again."""
    steps = run.steps(job.steps)
    model = job.model.to(run.device)
    averaged = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr, betas=(0.9, 0.98), weight_decay=0.01)
    path = run.work / f"{job.name}.pt"
    step, seconds = _resume(path, steps, model, averaged, optimizer)
    resumed_at, began, saved = step, time.monotonic(), time.monotonic()
    while step < steps:
        value = _step(job, model, averaged, optimizer, step, steps)
        step += 1
        spent = seconds + time.monotonic() - began
        if step % _REPORT_EVERY == 0 or step == steps:
            pace = (spent - seconds) / (step - resumed_at)
            left = pace * (steps - step)
            print(f"{job.name}: step {step}/{steps}, loss {value.item():.4f}, {_clock(left)} left", flush=True)
        last = step == steps
        if last or time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save(path, steps, step, spent, model, averaged, optimizer)
            saved = time.monotonic()
        if last or step % max(1, steps // job.exports) == 0:
            _export(job, model, averaged, Progress(step, steps, step * job.batch, spent))
    if resumed_at == steps:
        _export(job, model, averaged, Progress(steps, steps, steps * job.batch, seconds))


def _step(job: Job, model: nn.Module, averaged, optimizer, step: int, steps: int) -> torch.Tensor:
    device = next(model.parameters()).device
    torch.manual_seed(step_seed(job.name, step))
    for group in optimizer.param_groups:
        group["lr"] = job.lr * _schedule(step, steps)
    model.train()
    # On CPU the fused attention kernel's backward pass takes half of a step; plain matrix products take a fraction of
    # that.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(device.type, torch.bfloat16, enabled=_has_bf16(device)):
        value = job.loss(model, step)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    decay = min(_EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1 - decay)
    return value.detach()


def _has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16: a CPU that does not would emulate it, tens of times more slowly."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 2% of the learning rate."""
    warm = min(1.0, (step + 1) / min(_WARM_UP, max(1, steps // 5)))
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def _export(job: Job, model: nn.Module, averaged: list[torch.Tensor], progress: Progress) -> None:
    """Call the job's export with the averaged weights in place, then put the raw ones back."""
    raw = [p.detach().clone() for p in model.parameters()]
    torch._foreach_copy_(list(model.parameters()), averaged)
    model.eval()
    job.export(model, progress)
    torch._foreach_copy_(list(model.parameters()), raw)


def _save(path: Path, steps, step, seconds, model, averaged, optimizer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"steps": steps, "step": step, "seconds": seconds, "model": model.state_dict(), "averaged": averaged}
    temporary = path.with_suffix(".tmp")
    torch.save(state | {"optimizer": optimizer.state_dict()}, temporary)
    os.replace(temporary, path)  # if the process is killed, the last checkpoint stays complete


def _resume(path: Path, steps: int, model, averaged, optimizer) -> tuple[int, float]:
    """Load a checkpoint of a run of the same length; returns (steps done, seconds spent), zeros without one."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    if state["steps"] != steps:
        print(f"{path.name} is of a run of {state['steps']} steps, not {steps}: starting again", flush=True)
        return 0, 0.0
    model.load_state_dict(state["model"])
    torch._foreach_copy_(averaged, state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
