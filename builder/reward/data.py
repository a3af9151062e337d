"""Preference datasets as a reward model reads them: an input, its candidates and its pairs, together.

Pairs of one input share its image or text and most of their candidates. Read input by input, the shared side is
encoded once and every candidate is scored once, however many pairs it is in: 8 candidates make up to 28 pairs, which
is 8 rewards instead of 56.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Image, List, load_dataset_builder
from transformers import ProcessorMixin

from builder.images import decode
from builder.rankings import CYCLE_OF_COLUMN, cache_folder
from builder.reward.preprocess import pixels, tokens
from schemas.errors import CyclePrefError

# The part of a batch that `RewardModel.forward` takes.
MODEL_INPUTS = ("pixel_values", "image_index", "input_ids", "attention_mask")


class PreferenceError(CyclePrefError, ValueError):
    """A preference dataset that cannot be learned from; the message names the place, the value and the rule."""


@dataclass(frozen=True)
class PreferenceInput:
    """One input with its candidates: one image and many texts (i2t2i), or many images and one text (t2i2t).

    `images` are encoded bytes under the id of what they are. Candidate k is (image k, text k), the shared side being
    the same for each. `pairs` are (chosen, rejected) as indices of candidates.
    """

    cycle: str
    generation_ids: list[str]
    images: dict[str, bytes]
    texts: list[str]
    pairs: list[tuple[int, int]]


class PreferenceSplit(torch.utils.data.Dataset):
    """One split of a preference dataset: `split[i]` is its i-th input, read from disk when asked for.

    `generation_ids` are those of all candidates, input by input; `pairs[i]` are the pairs of input i.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        rankings: Dataset,
        generation_ids: list[str],
        pairs: list[list[tuple[int, int]]],
    ):
        self.path, self.name, self.generation_ids, self.pairs = path, name, generation_ids, pairs
        column = _input_column(path, rankings)
        self.cycle = CYCLE_OF_COLUMN[column]
        self._rows, self._column = _undecoded(rankings, column), column

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PreferenceInput:
        row = self._rows[index]
        candidates = row["candidates"]
        ids = [candidate["generation_id"] for candidate in candidates]
        if self.cycle == "i2t2i":
            images = {row["input_id"]: row["image"]["bytes"]}
            texts = [candidate["text"] for candidate in candidates]
        else:
            images = {candidate["generation_id"]: candidate["image"]["bytes"] for candidate in candidates}
            texts = [row["prompt"]]
        return PreferenceInput(self.cycle, ids, images, texts, self.pairs[index])

    @property
    def pair_count(self) -> int:
        """Pairs in the split."""
        return sum(map(len, self.pairs))

    @property
    def with_pairs(self) -> list[int]:
        """Indices of the inputs that have a pair."""
        return [index for index, pairs in enumerate(self.pairs) if pairs]

    def __str__(self) -> str:
        return f"split {self.name!r} of {self.path}"


def load_preferences(path: str | Path) -> dict[str, PreferenceSplit]:
    """All splits of a preference dataset folder that have inputs, by name; every pair is in exactly one.

    Raises:
        PreferenceError: if there is no dataset or no input in it; if a score is missing or no finite number; if a pair
            is there twice, or names an input or candidate that is not.
    """
    path = Path(path)
    if not path.is_dir():
        raise PreferenceError(f"no dataset folder at {path}: give the folder that a build wrote as `dataset`")
    rankings, pairs = _read(path, "rankings"), _read(path, "pairs")
    if not rankings:
        raise PreferenceError(f"the dataset at {path} is empty: it has no input in any split")
    splits = {}
    for name in [*rankings, *(name for name in pairs if name not in rankings)]:
        where = f"split {name!r} of {path}"
        table = _arrow(pairs[name]) if name in pairs else None
        index = _candidates(where, _arrow(rankings[name])) if name in rankings else {}
        grouped = _group_pairs(where, index, table)
        if index:
            ids = [generation_id for _, places in index.values() for generation_id in places]
            splits[name] = PreferenceSplit(path, name, rankings[name], ids, grouped)
    return splits


def _read(path: Path, config: str) -> dict[str, Dataset]:
    """The splits of a config that have rows; `load_dataset` itself refuses a config with an empty split."""
    builder = load_dataset_builder(str(path), config, cache_dir=cache_folder(path))
    builder.download_and_prepare()
    return {name: builder.as_dataset(split=name) for name, split in builder.info.splits.items() if split.num_examples}


def _arrow(rows: Dataset) -> pa.Table:
    return rows.with_format("arrow")[:]


def _input_column(path: Path, rankings: Dataset) -> str:
    found = [column for column in CYCLE_OF_COLUMN if column in rankings.column_names]
    if len(found) != 1:
        raise PreferenceError(
            f"{path}: rankings need exactly one of the columns image (i2t2i) and prompt (t2i2t), "
            f"got {', '.join(rankings.column_names)}"
        )
    return found[0]


def _undecoded(rankings: Dataset, column: str) -> Dataset:
    """Rows whose images stay bytes, so that what is decoded is what will be used."""
    if column == "image":
        return rankings.cast_column("image", Image(decode=False))
    fields: dict[str, Any] = dict(rankings.features["candidates"].feature)
    return rankings.cast_column("candidates", List({**fields, "image": Image(decode=False)}))


def _candidates(where: str, rankings: pa.Table) -> dict[str, tuple[int, dict[str, int]]]:
    """input_id -> (row, generation_id -> place among the row's candidates), scores checked; reads no image."""
    candidates = rankings["candidates"].combine_chunks()
    rows = pc.list_parent_indices(candidates).to_pylist()
    flat = candidates.flatten()
    ids, scores = flat.field("generation_id").to_pylist(), flat.field("score").to_pylist()
    places: list[dict[str, int]] = [{} for _ in range(len(rankings))]
    for row, generation_id, score in zip(rows, ids, scores, strict=True):
        _check_score(where, f"candidate {generation_id}", score)
        if generation_id in places[row]:
            raise PreferenceError(f"{where}: candidate {generation_id} is listed twice for one input")
        places[row][generation_id] = len(places[row])
    index = {input_id: (row, places[row]) for row, input_id in enumerate(rankings["input_id"].to_pylist())}
    if len(index) != len(rankings):
        raise PreferenceError(f"{where}: {len(rankings)} rows of rankings name only {len(index)} inputs")
    return index


def _group_pairs(
    where: str, index: dict[str, tuple[int, dict[str, int]]], pairs: pa.Table | None
) -> list[list[tuple[int, int]]]:
    """The pairs of each row of rankings, as (chosen, rejected) places among its candidates."""
    grouped: list[list[tuple[int, int]]] = [[] for _ in index]
    seen: dict[int, set[frozenset[int]]] = defaultdict(set)
    columns = ["pair_id", "input_id", "chosen_id", "rejected_id", "chosen_score", "rejected_score"]
    for pair in pairs.select(columns).to_pylist() if pairs is not None else []:
        what = f"pair {pair['pair_id']}"
        _check_score(where, what, pair["chosen_score"])
        _check_score(where, what, pair["rejected_score"])
        if pair["input_id"] not in index:
            raise PreferenceError(f"{where}: {what} names the input {pair['input_id']}, which rankings do not have")
        row, places = index[pair["input_id"]]
        for side in ("chosen_id", "rejected_id"):
            if pair[side] not in places:
                raise PreferenceError(
                    f"{where}: {what} names the candidate {pair[side]} as {side}, which its input "
                    f"{pair['input_id']} does not have"
                )
        chosen, rejected = places[pair["chosen_id"]], places[pair["rejected_id"]]
        if chosen == rejected or frozenset((chosen, rejected)) in seen[row]:
            raise PreferenceError(f"{where}: {what} compares two candidates that are one, or were compared before")
        seen[row].add(frozenset((chosen, rejected)))
        grouped[row].append((chosen, rejected))
    return grouped


def _check_score(where: str, what: str, score: float | None) -> None:
    if score is None or not math.isfinite(score):
        raise PreferenceError(f"{where}: {what} has the score {score}; scores must be finite numbers")


class Collate:
    """Turns inputs into one batch of tensors for `RewardModel.forward`, and the pairs among its rewards.

    Three inputs, [one image, texts a b c], [one image, texts d e], [images p q, one text f], make seven candidates of
    four images: image_index [0 0 0 1 1 2 3], texts [a b c d e f f]. A pair (2, 0) of the first input stays (2, 0);
    (1, 0) of the last becomes (6, 5). `is_image_pair` tells pairs of images from pairs of texts.

    Decoding and resizing an image costs more than scoring it with a small model, so pixel values are kept from one
    epoch to the next, up to `cache_mb` megabytes (2**20 bytes).
    """

    def __init__(self, processor: ProcessorMixin, max_text_length: int, cache_mb: int):
        self.processor, self.max_text_length = processor, max_text_length
        self._cache: dict[str, torch.Tensor] = {}
        self._room = cache_mb * 2**20

    def __call__(self, inputs: Sequence[PreferenceInput]) -> dict[str, torch.Tensor]:
        """One batch: `MODEL_INPUTS`, and `chosen`, `rejected`, `is_image_pair`, each (pairs,)."""
        images = {key: data for each in inputs for key, data in each.images.items()}
        place = {key: index for index, key in enumerate(images)}
        texts, image_index, pairs, of_images = [], [], [], []
        for each in inputs:
            first, count = len(texts), len(each.generation_ids)
            image_index += [place[key] for key in each.images] * (count // len(each.images))
            texts += each.texts * (count // len(each.texts))
            pairs += [(first + chosen, first + rejected) for chosen, rejected in each.pairs]
            of_images += [each.cycle == "t2i2t"] * len(each.pairs)
        chosen, rejected = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
        return {
            "pixel_values": self._pixels(images),
            "image_index": torch.tensor(image_index),
            **tokens(self.processor, texts, self.max_text_length),
            "chosen": chosen,
            "rejected": rejected,
            "is_image_pair": torch.tensor(of_images, dtype=torch.bool),
        }

    def _pixels(self, images: dict[str, bytes]) -> torch.Tensor:
        new = {key: decode(data) for key, data in images.items() if key not in self._cache}
        made = dict(zip(new, pixels(self.processor, list(new.values())), strict=True)) if new else {}
        batch = torch.stack([made[key] if key in made else self._cache[key] for key in images])
        for key, values in made.items():
            size = values.numel() * values.element_size()
            if size <= self._room:
                self._room -= size
                self._cache[key] = values.clone()
        return batch
