"""A cache on disk for the output of a tower's frozen layers, computed once for each distinct image and text.

A part is one safetensors file, written under another name and renamed: `states` (places, width) has its entries one
after the other, `first` (entries + 1) where each begins, and the metadata their keys. Keys are hashes of contents, and
the folder's name is a hash of everything that changes the numbers, so that several runs can share a cache.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from cyclepref.builder.common.images import UnreadableImage, decode
from cyclepref.builder.common.progress import Stage, console, plain
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.preprocess import pad, pixels, tokenise
from cyclepref.builder.reward.training.data import SplitImage
from cyclepref.builder.reward.training.frozen_layers import (
    Half,
    begin_images,
    begin_texts,
    full_length,
    half_fingerprint,
)
from cyclepref.builder.reward.training.writing import writing
from cyclepref.schemas.ids import digest

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BATCH, THREADS = 32, 8
PART_BYTES = 64 * 2**20


class PrefixCache:
    """Outputs of one tower's frozen half by key: `cache[key]` is (places, width), in the dtype on disk."""

    def __init__(self, folder: Path, model: Any, half: Half, dtype: str):
        self.half, self.dtype = half, DTYPES[dtype]
        self.folder = folder / f"{half.tower}-{half_fingerprint(model, half)}-{dtype}"

    @cached_property
    def _places(self) -> dict[str, tuple[Path, int, int]]:
        """The position of each entry: its part, first row and end."""
        found = {}
        for part in sorted(self.folder.glob("*.safetensors")):
            with safe_open(part, "pt") as opened:
                first, keys = opened.get_tensor("first").tolist(), json.loads(opened.metadata()["keys"])
            found |= {key: (part, *ends) for key, *ends in zip(keys, first[:-1], first[1:], strict=True)}
        return found

    @cached_property
    def _parts(self) -> dict[Path, Any]:
        return {}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> torch.Tensor:
        part, start, stop = self._places[key]
        if part not in self._parts:
            self._parts[part] = safe_open(part, "pt").get_slice("states")
        return self._parts[part][start:stop]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_places", "_parts")}

    def reread(self) -> None:
        """Look for parts that other processes wrote."""
        self.__dict__.pop("_places", None)

    def write(self, entries: dict[str, torch.Tensor]) -> None:
        """Write entries, each (places, width), as one part.

        Raises:
            RewardError: if a number is not finite in the cache's dtype, or the disk is full.
        """
        states = torch.cat(list(entries.values())).to("cpu", self.dtype)
        if not states.isfinite().all():
            raise RewardError(f"a frozen layer's output is not finite in {self.dtype}: set prefix_cache to float32")
        first = torch.tensor([0, *(len(state) for state in entries.values())]).cumsum(0)
        path = self.folder / f"{digest(*entries)}.safetensors"
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                scratch.write_bytes(save({"states": states, "first": first}, {"keys": json.dumps(list(entries))}))
                scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)


def image_key(data: bytes) -> str:
    """Id of an encoded image."""
    return digest("encoded image", data)


def text_key(text: str) -> str:
    """Id of a text, without normalisation."""
    return digest("exact text", text)


def keys_of(pictures: Sequence[SplitImage], progress: Stage) -> dict[SplitImage, str]:
    """The key of each image; all are read, none is decoded."""
    found = {}
    with progress("reward model: images read", len(pictures)) as tick, ThreadPoolExecutor(THREADS) as pool:
        for picture, key in zip(pictures, pool.map(lambda picture: image_key(picture.read()), pictures), strict=True):
            found[picture] = key
            tick(1)
    return found


def fill_images(
    model: Any, cache: PrefixCache, keys: dict[SplitImage, str], progress: Stage, share: tuple[int, int] = (0, 1)
) -> None:
    """Compute missing entries of images, as worker `share[0]` of `share[1]`.

    Raises:
        UnreadableImage: if one does not decode; the message names it.
        RewardError: if the disk has no room for them.
    """
    missing = {key: picture for picture, key in keys.items() if key not in cache}
    if not missing:
        return
    example = next(iter(missing.values()))
    size = _images(model, cache.half, [example])[0].numel() * cache.dtype.itemsize
    _announce(cache, "images", len(missing), len(missing) * size)
    mine = sorted(filter(_is_mine(share), missing))
    made = (
        (key, state)
        for some in _batches(mine)
        for key, state in zip(some, _images(model, cache.half, [missing[key] for key in some]), strict=True)
    )
    _keep(cache, made, len(mine), progress)


def fill_texts(
    model: Any, cache: PrefixCache, texts: Iterable[str], progress: Stage, share: tuple[int, int] = (0, 1)
) -> None:
    """Compute missing entries of texts, as worker `share[0]` of `share[1]`.

    Raises:
        RewardError: if the disk has no room for them.
    """
    missing = {key: text for text in texts if (key := text_key(text)) not in cache}
    if not missing:
        return
    ids = tokenise(model.need_processor(), list(missing.values()), model.max_text_length).ids
    by_key = dict(zip(missing, ids, strict=True))
    places = sum(_text_places(model, cache.half, each) for each in ids)
    _announce(cache, "texts", len(missing), places * _text_width(model, cache.half) * cache.dtype.itemsize)
    mine = sorted(filter(_is_mine(share), missing), key=lambda key: (len(by_key[key]), key))
    made = (
        (key, state)
        for some in _batches(mine)
        for key, state in zip(some, _texts(model, cache.half, [by_key[key] for key in some]), strict=True)
    )
    _keep(cache, made, len(mine), progress)


@torch.inference_mode()
def _images(model: Any, half: Half, pictures: Sequence[SplitImage]) -> list[torch.Tensor]:
    with ThreadPoolExecutor(THREADS) as pool:  # decoding releases the GIL, so threads run in parallel
        opened = list(pool.map(open_picture, pictures))
    values = pixels(model.need_processor(), opened)
    states = begin_images(model, half, values.to(model.device))
    return list(states.cpu() if states.ndim == 3 else states.cpu()[:, None])


@torch.inference_mode()
def _texts(model: Any, half: Half, ids: Sequence[list[int]]) -> list[torch.Tensor]:
    inputs = {name: value.to(model.device) for name, value in pad(model.need_processor(), ids).items()}
    states = begin_texts(model, half, **inputs).cpu()
    if half.whole:
        return list(states[:, None])
    return [state[: _text_places(model, half, each)] for state, each in zip(states, ids, strict=True)]


def _text_places(model: Any, half: Half, ids: list[int]) -> int:
    if half.whole:
        return 1
    if model.config.backbone == "siglip":
        some = torch.tensor([ids])
        return full_length(model, some, torch.ones_like(some)).shape[1]
    return len(ids)


def _text_width(model: Any, half: Half) -> int:
    """The width of a text's states, or of its embedding if the whole tower is frozen."""
    text = model.config.text_config
    if not half.whole:
        return text.hidden_size
    return text.projection_size if model.config.backbone == "siglip" else model.config.projection_dim


def open_picture(picture: SplitImage) -> Any:
    """The image, decoded.

    Raises:
        UnreadableImage: if it does not decode; the message names it.
    """
    try:
        return decode(picture.read())
    except UnreadableImage as error:
        raise UnreadableImage(
            f"{picture} cannot be read ({error}): repair it, or build the dataset again without it"
        ) from error


def _announce(cache: PrefixCache, what: str, count: int, size: int) -> None:
    """Print what will be written, and refuse it if the disk has no room."""
    with writing(cache.folder):
        cache.folder.mkdir(parents=True, exist_ok=True)
    layers = "the whole tower" if cache.half.whole else f"{cache.half.layers} frozen layers"
    console.print(
        plain(f"{cache.half.tower} tower: {layers} once for each of {count:,} {what}: {_size(size)} in {cache.folder}"),
        soft_wrap=True,
    )
    free = shutil.disk_usage(cache.folder).free
    if size > free:
        raise RewardError(
            f"{cache.folder} has {_size(free)} free, and the frozen layers' output takes {_size(size)}: "
            "give another --cache, or set prefix_cache to null to compute it in every step"
        )


def _is_mine(share: tuple[int, int]) -> Callable[[str], bool]:
    """Whether a key belongs to this worker. That depends on the key alone, not on what others have written
    meanwhile."""
    return lambda key: int(key[:8], 16) % share[1] == share[0]


def _batches(keys: list[str]) -> Iterator[list[str]]:
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))


def _keep(cache: PrefixCache, made: Iterator[tuple[str, torch.Tensor]], count: int, progress: Stage) -> None:
    """Write entries part by part as they are made: a kill loses one part at most."""
    part: dict[str, torch.Tensor] = {}
    size = 0
    with progress(f"reward model: frozen half of {cache.half.tower}s", count) as tick:
        for key, state in made:
            part[key] = state
            size += state.numel() * cache.dtype.itemsize
            if size >= PART_BYTES:
                cache.write(part)
                part, size = {}, 0
            tick(1)
        if part:
            cache.write(part)
    cache.reread()


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"
