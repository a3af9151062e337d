"""Training with several workers: Ray Train starts them and joins them in a `torch.distributed` group.

Only this file and builder/engine/ import ray. Each worker runs `cyclepref.builder.reward.training.train.train_reward`,
which divides each step among the workers: one worker or eight make the same model, up to rounding.
"""

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)

from cyclepref.builder.common.progress import Tick, stage
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.plan import Cluster
from cyclepref.builder.preferences.layouts.as_rankings import absolute
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.training.settings import TrainRecipe
from cyclepref.builder.reward.training.writing import replace_text
from cyclepref.schemas.errors import CyclePrefError

# In the folder that all nodes see, beside the checkpoints.
STEPS, ERROR, RAY = "steps.json", "error.txt", "ray"
# If a worker dies, all workers are stopped and start again from the last checkpoint.
MAX_FAILURES = 2
LOOK_EVERY_S = 1.0


def train_with_workers(
    sources: list[str], recipe: TrainRecipe, out: Path, workers: int, cache: Path | None = None
) -> dict[str, Any]:
    """As `train_reward`, with several workers, each on a GPU if the cluster has any; returns the metrics.

    Joins the cluster that RAY_ADDRESS or a Ray job names, or starts Ray on this machine. `sources` that are folders,
    `out` and `cache` must be folders that all nodes see.

    Raises:
        RewardError: if the cluster has too few GPUs or cores, a step has too few inputs, or a worker failed; the
            message ends with the worker's error.
    """
    from cyclepref.builder.reward.training.train import WORK

    out = out.resolve()
    work = out / WORK
    with Engine() as engine:
        gpus, cpus = engine.cluster.gpus, engine.cluster.cpus
        _check_room(workers, gpus, cpus)
        work.mkdir(parents=True, exist_ok=True)
        for name in (STEPS, ERROR):
            (work / name).unlink(missing_ok=True)
        told = {
            "sources": [absolute(source) for source in sources],
            "recipe": recipe.model_copy(update={"start": absolute(recipe.start)}).model_dump(
                mode="json", exclude_unset=True
            ),
            "out": str(out),
            "cache": str(cache.resolve()) if cache is not None else None,
        }
        resources = {"CPU": 1, "GPU": 1} if gpus else {"CPU": cores_each(engine.cluster, workers)}
        trainer = TorchTrainer(
            _work,
            train_loop_config=told,
            torch_config=OnLoopback(folder=str(work / RAY)) if engine.on_loopback else None,
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=resources),
            run_config=RunConfig(
                name="train-reward",
                storage_path=str(work / RAY),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        with _shown(work / STEPS), _quiet():
            _fit(trainer, work / ERROR)
    shutil.rmtree(work / RAY, ignore_errors=True)
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


@dataclass
class OnLoopback(TorchConfig):
    """A process group on one machine whose workers meet by a file in `folder`, and then talk over loopback.

    By default the first worker would serve a store that listens on all interfaces, without authentication.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type:
        """The class that sets up the process group."""
        return _Meeting


class _Meeting(_TorchBackend):
    """Ray's own backend, except for how the workers find one another."""

    def on_start(self, worker_group: Any, backend_config: OnLoopback) -> None:
        workers = range(len(worker_group))
        group = {
            "backend": "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo",
            "world_size": len(workers),
            # A new file for each start, since the file of an earlier start names workers that are gone.
            "init_method": f"file://{backend_config.folder}/{uuid.uuid4().hex}",
            "timeout_s": backend_config.timeout_s,
        }
        worker_group.execute(_talk_over_loopback)
        worker_group.execute(_set_torch_distributed_env_vars)
        start = worker_group.execute_single_async
        ray.get([start(rank, _setup_torch_process_group, world_rank=rank, **group) for rank in workers])


def _talk_over_loopback() -> None:
    [name, *_] = [name for name, at in psutil.net_if_addrs().items() if "127.0.0.1" in [one.address for one in at]]
    os.environ.update(GLOO_SOCKET_IFNAME=name, NCCL_SOCKET_IFNAME=name)


def _check_room(workers: int, gpus: float, cpus: int) -> None:
    """Refuse more workers than the cluster has room for, since Ray would wait for ever."""
    have, what = (int(gpus), "GPUs") if gpus else (cpus, "CPU cores")
    if workers > have:
        raise RewardError(
            f"--workers {workers} needs as many {what}, but the cluster has {have}: ask for {have} or less"
        )


def cores_each(cluster: Cluster, workers: int) -> int:
    """The most cores that each of `workers` workers can have, if all cores of a worker are on one node."""
    most = max(node.cpus for node in cluster.nodes)
    return next(
        (cores for cores in range(most, 1, -1) if sum(node.cpus // cores for node in cluster.nodes) >= workers), 1
    )


def _fit(trainer: TorchTrainer, error: Path) -> None:
    """Run the workers to their end; raise the error that a failed worker wrote into a file."""
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as failure:
        if not error.is_file():
            lines = [line for line in str(failure).splitlines() if line.strip()]
            raise RewardError(f"a worker failed: {lines[-1].strip() if lines else 'it did not say why'}") from failure
    if error.is_file():
        raise RewardError(error.read_text(encoding="utf-8"))


def _work(told: dict[str, Any]) -> None:
    """The function that each worker runs."""
    import datasets
    import transformers

    from cyclepref.builder.reward.training.train import WORK, train_reward

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    work = Path(told["out"]) / WORK
    if (work / ERROR).is_file():
        return  # a restart cannot fix an error in the data or the settings
    recipe = TrainRecipe.model_validate(told["recipe"])
    noted = work / STEPS if ray.train.get_context().get_world_rank() == 0 else None

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Tick]:
        note = _Note(noted, label, total)
        yield note.tick
        note.write()

    try:
        train_reward(
            told["sources"], recipe.start, told["out"], recipe, progress, revision=recipe.revision, cache=told["cache"]
        )
    except CyclePrefError as error:
        (work / ERROR).write_text(str(error), encoding="utf-8")
        raise  # so that Ray stops the other workers, which may wait for this one


class _Note:
    """Writes the progress into a small file that the driver reads."""

    def __init__(self, path: Path | None, label: str, total: int):
        self.path, self.label, self.total, self.done, self.said = path, label, total, 0, 0.0

    def tick(self, count: int) -> None:
        """Count rows or steps as done."""
        self.done += count
        if time.monotonic() - self.said >= LOOK_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file completely or not at all."""
        self.said = time.monotonic()
        if self.path is not None:
            replace_text(self.path, json.dumps([self.label, self.total, self.done]))


@contextmanager
def _shown(path: Path) -> Iterator[None]:
    """Show the first worker's progress while it works."""
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(path, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(path: Path, ended: threading.Event) -> None:
    found = _read(path)
    while found is None and not ended.wait(LOOK_EVERY_S):
        found = _read(path)
    while found is not None:
        label, total, shown = found[0], found[1], 0
        with stage(label, total) as tick:
            while found is not None and found[0] == label:
                tick(found[2] - shown)
                shown = found[2]
                if ended.wait(LOOK_EVERY_S):
                    last = _read(path)
                    if last is not None and last[0] == label:
                        tick(last[2] - shown)
                    return
                found = _read(path)


def _read(path: Path) -> list[Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Ray Train's own reports, since ours replace them. Failures still raise."""
    loggers = [logging.getLogger(name) for name in ("ray.train", "ray.tune")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
