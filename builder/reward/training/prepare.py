"""Prepares the batches of training: the workers together fill the caches of frozen layers before the first step."""

from pathlib import Path

import torch.distributed as workers

from cyclepref.builder.common.progress import Stage
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.batches import Collate, Frozen
from cyclepref.builder.reward.training.data import PreferenceSplit
from cyclepref.builder.reward.training.frozen_cache import PrefixCache, fill_images, fill_texts, keys_of
from cyclepref.builder.reward.training.frozen_layers import frozen_half
from cyclepref.builder.reward.training.perturb import perturber
from cyclepref.builder.reward.training.settings import TrainSettings
from cyclepref.builder.reward.training.step import TrainingView


def prepare(
    model: RewardModel,
    splits: list[dict[str, PreferenceSplit]],
    settings: TrainSettings,
    folder: Path,
    progress: Stage,
) -> tuple[TrainingView, Collate]:
    """Make the collator and the model's training view; afterwards the caches of frozen layers are filled."""
    model.eval()
    perturb = None
    if settings.auxiliary is not None:
        perturb = perturber(settings.auxiliary.prompts, settings.seed, model.max_text_length)
    halves = {tower: frozen_half(model, tower) for tower in ("image", "text")}
    frozen = Frozen()
    if settings.prefix_cache is not None:
        caches = {
            tower: PrefixCache(folder, model, half, settings.prefix_cache) if half is not None else None
            for tower, half in halves.items()
        }
        inputs = [by_name[name][row] for by_name in splits for name in by_name for row in range(len(by_name[name]))]
        keys = keys_of([picture for each in inputs for picture in each.images], progress) if caches["image"] else {}
        if caches["image"] is not None:
            fill_images(model, caches["image"], keys, progress, worker())
        if caches["text"] is not None:
            texts = dict.fromkeys(text for each in inputs for text in each.texts)
            more = [other for text in texts for other in perturb(text)] if perturb else []
            fill_texts(model, caches["text"], dict.fromkeys([*texts, *more]), progress, worker())
        wait()
        for cache in filter(None, caches.values()):
            cache.reread()
        frozen = Frozen(caches["image"], caches["text"], keys)
    collate = Collate(model.need_processor(), model.max_text_length, settings.pixel_cache_mb, frozen, perturb)
    return TrainingView(model, halves["image"], halves["text"]), collate


def worker() -> tuple[int, int]:
    """This worker's rank, and the number of workers."""
    if workers.is_available() and workers.is_initialized():
        return workers.get_rank(), workers.get_world_size()
    return 0, 1


def wait() -> None:
    """Wait until all workers have called this."""
    if worker()[1] > 1:
        workers.barrier()
