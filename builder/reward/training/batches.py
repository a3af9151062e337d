"""The steps of training: which inputs each has, and their tensors."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin

from cyclepref.builder.reward.preprocess import pad, pixels, tokenise, warn_of_cut
from cyclepref.builder.reward.training.data import PreferenceError, PreferenceInput, PreferenceSplit, SplitImage
from cyclepref.builder.reward.training.frozen_cache import PrefixCache, image_key, open_picture, text_key

# Makes perturbed texts from a text, for the auxiliary loss.
Perturb = Callable[[str], list[str]]


class Passes(torch.utils.data.Dataset):
    """The inputs that devices read in each pass: `passes[i]` is the list of inputs of pass i of an epoch.

    A step is `passes_per_step` consecutive passes, of all workers together. The inputs of a step depend on the data,
    the seed, the epoch and the size of a step, not on the number of workers or the size of a pass. Inputs are divided
    evenly, so an epoch's steps differ by at most one input. Each epoch has each input once, in a new order that spreads
    several datasets evenly; a pass without inputs gets one whose pairs are left out.
    """

    def __init__(
        self, splits: Sequence[PreferenceSplit], seed: int, inputs_per_step: int, inputs_per_pass: int, workers: int = 1
    ):
        self.splits, self.seed, self.epoch = splits, seed, 0
        self._inputs = [split.with_pairs for split in splits]
        self._made: tuple[int, list[np.ndarray]] | None = None
        count = sum(map(len, self._inputs))
        self.steps = math.ceil(count / inputs_per_step)
        largest = math.ceil(count / self.steps)
        self.passes_per_step = workers * math.ceil(largest / (workers * inputs_per_pass))

    def set_epoch(self, epoch: int) -> None:
        """Use the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.passes_per_step

    def __getitem__(self, index: int) -> list[PreferenceInput]:
        step, place = divmod(index, self.passes_per_step)
        steps = self._steps(self.epoch)
        inputs = np.array_split(steps[step], self.passes_per_step)[place]
        if len(inputs):
            return [self.splits[split][row] for split, row in inputs.tolist()]
        split, row = steps[0][0].tolist()
        stand_in = self.splits[split][row]
        return [PreferenceInput(**{**stand_in.__dict__, "pairs": [], "margins": []})]

    def _steps(self, epoch: int) -> list[np.ndarray]:
        """For each step of an epoch (inputs, 2): split and row of each; each process computes it once per epoch."""
        if self._made is None or self._made[0] != epoch:
            self._made = (epoch, np.array_split(self._order(epoch), self.steps))
        return self._made[1]

    def _order(self, epoch: int) -> np.ndarray:
        """(inputs, 2): split and row of each."""
        random = np.random.default_rng([self.seed, epoch])
        rows = [
            np.stack([np.full(len(inputs), split), random.permutation(inputs)], 1)
            for split, inputs in enumerate(self._inputs)
        ]
        places = np.concatenate([(np.arange(len(inputs)) + 0.5) / len(inputs) for inputs in self._inputs])
        return np.concatenate(rows)[np.argsort(places, kind="stable")].astype(np.int64)


def inputs_for_pairs(splits: Sequence[PreferenceSplit], pairs_per_step: int) -> int:
    """The number of inputs that have about `pairs_per_step` pairs on average; at least 1."""
    inputs, pairs = sum(len(split.with_pairs) for split in splits), sum(split.pair_count for split in splits)
    if not pairs:
        raise PreferenceError("there are no pairs to make steps of")
    return max(1, round(pairs_per_step * inputs / pairs))


class Frozen(NamedTuple):
    """The caches of a run: of images, with the key of each, and of texts (dual encoders only)."""

    images: PrefixCache | None = None
    texts: PrefixCache | None = None
    keys: dict[SplitImage, str] | None = None


class Collate:
    """Turns inputs into one batch of tensors for `cyclepref.builder.reward.training.step.batch_rewards`, and the pairs
    among its rewards.

    Three inputs, [one image, texts a b c], [one image, texts d e], [images p q, one text f], make seven candidates of
    four images and six texts: image_index [0 0 0 1 1 2 3], text_index [0 1 2 3 4 5 5]. A pair (2, 0) of the first input
    stays (2, 0); (1, 0) of the last becomes (6, 5). Equal images and equal texts appear once.

    With `perturb`, every candidate that is chosen and never rejected is repeated after all candidates, once with each
    perturbed text; `examples` (examples, 1 + most perturbed) are the places of the originals and their perturbed
    versions, -1 for none.

    Images are pixels (images, 3, height, width) in `pixel_values`, or the frozen layers' output from `frozen` in
    `image_prefix`; likewise texts in `text_prefix`. Decoding and resizing an image costs more than scoring it with a
    small model, so pixel values are kept from one epoch to the next, up to `cache_mb` megabytes (2**20 bytes).
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_text_length: int,
        cache_mb: int,
        frozen: Frozen | None = None,
        perturb: Perturb | None = None,
    ):
        self.processor, self.max_text_length = processor, max_text_length
        self.frozen, self.perturb = frozen or Frozen(), perturb
        self._keys: dict[SplitImage, str] = dict(self.frozen.keys or {})
        self._pixels: dict[str, torch.Tensor] = {}
        self._room = cache_mb * 2**20

    def one_pass(self, passes: list[list[PreferenceInput]]) -> dict[str, torch.Tensor]:
        """The batch of the only pass in a list; with `perturb`, it has `examples` too."""
        (inputs,) = passes
        return self._batch(inputs, self.perturb)

    def __call__(self, inputs: Sequence[PreferenceInput]) -> dict[str, torch.Tensor]:
        """One batch without examples: images, texts, `image_index`, `text_index`, each (candidates,); `chosen`,
        `rejected`, `margin`, `of_images`, each (pairs,)."""
        return self._batch(inputs, None)

    def _batch(self, inputs: Sequence[PreferenceInput], perturb: Perturb | None) -> dict[str, torch.Tensor]:
        rows: list[tuple[SplitImage, str]] = []
        pairs: list[tuple[int, int, float, bool]] = []
        best: list[int] = []
        for each in inputs:
            first, count = len(rows), len(each.generation_ids)
            rows += zip(each.images * (count // len(each.images)), each.texts * (count // len(each.texts)), strict=True)
            of_images = each.cycle == "t2i2t"
            pairs += [
                (first + chosen, first + rejected, margin, of_images)
                for (chosen, rejected), margin in zip(each.pairs, each.margins, strict=True)
            ]
            best += [first + at for at in sorted({c for c, _ in each.pairs} - {r for _, r in each.pairs})]
        examples = _examples(rows, best, perturb) if perturb else None
        keys = [self._key(picture) for picture, _ in rows]
        pictures = dict(zip(keys, (picture for picture, _ in rows), strict=True))
        image_at = {key: at for at, key in enumerate(pictures)}
        text_at = {text: at for at, text in enumerate(dict.fromkeys(text for _, text in rows))}
        chosen, rejected, margin, of_images = zip(*pairs, strict=True) if pairs else ((), (), (), ())
        batch = {
            **self._images(pictures),
            **self._texts(list(text_at)),
            "image_index": torch.tensor([image_at[key] for key in keys]),
            "text_index": torch.tensor([text_at[text] for _, text in rows]),
            "chosen": torch.tensor(chosen, dtype=torch.long),
            "rejected": torch.tensor(rejected, dtype=torch.long),
            "margin": torch.tensor(margin, dtype=torch.float32),
            "of_images": torch.tensor(of_images, dtype=torch.bool),
        }
        return batch if examples is None else {**batch, "examples": examples}

    def _key(self, picture: SplitImage) -> str:
        if picture not in self._keys:
            self._keys[picture] = image_key(picture.read())
        return self._keys[picture]

    def _images(self, pictures: dict[str, SplitImage]) -> dict[str, torch.Tensor]:
        known = self.frozen.images
        if known is not None and all(key in known for key in pictures):
            states = torch.stack([known[key] for key in pictures])
            return {"image_prefix": states[:, 0] if known.half.whole else states}
        new = {key: open_picture(picture) for key, picture in pictures.items() if key not in self._pixels}
        made = dict(zip(new, pixels(self.processor, list(new.values())), strict=True)) if new else {}
        batch = torch.stack([made[key] if key in made else self._pixels[key] for key in pictures])
        for key, values in made.items():
            size = values.numel() * values.element_size()
            if size <= self._room:
                self._room -= size
                self._pixels[key] = values.clone()
        return {"pixel_values": batch}

    def _texts(self, texts: list[str]) -> dict[str, torch.Tensor]:
        found = tokenise(self.processor, texts, self.max_text_length)
        warn_of_cut(len(found.cut), len(texts), self.max_text_length)
        batch: dict[str, Any] = pad(self.processor, found.ids)
        known = self.frozen.texts
        if known is not None and all(text_key(text) in known for text in texts):
            states = pad_sequence([known[text_key(text)] for text in texts], batch_first=True)
            batch["text_prefix"] = states[:, 0] if known.half.whole else states
        return batch


def _examples(rows: list[tuple[SplitImage, str]], best: list[int], perturb: Perturb) -> torch.Tensor:
    """Add a row for each perturbed text of the best candidates; returns the places of the originals and these rows."""
    examples = []
    for at in best:
        picture, text = rows[at]
        perturbed = perturb(text)
        if perturbed:
            examples.append(torch.tensor([at, *range(len(rows), len(rows) + len(perturbed))]))
            rows += [(picture, other) for other in perturbed]
    if not examples:
        return torch.empty((0, 1), dtype=torch.long)
    return pad_sequence(examples, batch_first=True, padding_value=-1)
