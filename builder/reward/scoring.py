"""Scoring many pairs: each distinct image and text is decoded, tokenised and encoded once per call."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cyclepref.builder.common.images import content_id
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.given import check_text, pair_count
from cyclepref.builder.reward.opening import ImageLike, image_list, open_image, read_image
from cyclepref.builder.reward.preprocess import pad, pixels, tokenise, warn_of_cut
from cyclepref.schemas.ids import digest

# Bytes of the keys and values of one block's images: some 35 images of BLIP-large in single precision.
BLOCK_BYTES = 512 * 2**20
# Padding tokens that cost less than another batch, on a CPU and on a GPU, where padding is cheap.
FREE_PADDING = (32, 4096)


class Scores(list[float]):
    """Rewards, one for each pair in the order given. `truncated` are the indices of pairs whose text was too long."""

    def __init__(self, rewards: Sequence[float], truncated: Sequence[int] = ()):
        super().__init__(rewards)
        self.truncated = list(truncated)


class Ranking(NamedTuple):
    """Ranked candidates: `order` holds their indices, best first; `rewards` has the order in which they were given.

    `truncated` are the indices of candidates whose text was cut.
    """

    order: list[int]
    rewards: list[float]
    truncated: list[int]


class Distinct(NamedTuple):
    """The distinct items, and for each given item the index of its equal among them."""

    kinds: list[Any]
    index: list[int]


def ranking(scores: Scores) -> Ranking:
    """Largest reward first; equal rewards in the order given."""
    return Ranking(sorted(range(len(scores)), key=lambda i: -scores[i]), list(scores), scores.truncated)


def paired(images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str]) -> tuple[list[ImageLike], list[str]]:
    """Both as lists of one length.

    Raises:
        RewardError: if there are no images or texts, or several of both in different number.
    """
    images, texts = image_list(images), [texts] if isinstance(texts, str) else list(texts)
    count = pair_count(len(images), len(texts))
    return images * (count // len(images)), texts * (count // len(texts))


@torch.inference_mode()
def score_pairs(
    model: Any, images: list[ImageLike], texts: list[str], batch_size: int, tick: Callable[[int], None]
) -> Scores:
    """Rewards of pairs (image i, text i), without dropout; `tick` is called with the number of pairs done."""
    images, texts = _distinct(images, _image_key), _distinct(texts, _text_key)
    found = tokenise(model.need_processor(), texts.kinds, model.max_text_length)
    warn_of_cut(len(found.cut), len(texts.kinds), model.max_text_length)
    score = _score_joint if model.backbone.joint else _score_dual
    training = model.training
    model.eval()
    try:
        rewards = score(model, images, Distinct(found.ids, texts.index), batch_size, tick)
    finally:
        model.train(training)
    wrong = (~rewards.isfinite()).nonzero().flatten().tolist()
    if wrong:
        raise RewardError(
            f"the reward of pair {wrong[0]} is {rewards[wrong[0]].item()} ({len(wrong)} of {len(rewards)} are not "
            "finite): the model's weights are broken, or too large for its dtype; load it in float32"
        )
    cut = set(found.cut)
    return Scores(rewards.tolist(), [pair for pair, text in enumerate(texts.index) if text in cut])


def _score_joint(
    model: Any, images: Distinct, texts: Distinct, batch_size: int, tick: Callable[[int], None]
) -> torch.Tensor:
    """Score one block of images after the other; within a block, texts of similar length form a batch, to avoid
    padding."""
    rewards, lengths = torch.empty(len(texts.index)), [len(texts.kinds[text]) for text in texts.index]
    pairs_of: list[list[int]] = [[] for _ in images.kinds]
    for pair, image in enumerate(images.index):
        pairs_of[image].append(pair)
    size = min(batch_size, max(1, BLOCK_BYTES // _memory_bytes(model)))
    for start in range(0, len(images.kinds), size):
        block = range(start, min(start + size, len(images.kinds)))
        memory = model.read_images(_encode(model, [images.kinds[image] for image in block]))
        pairs = sorted((pair for image in block for pair in pairs_of[image]), key=lengths.__getitem__)
        for batch in _batches(pairs, lengths, batch_size, FREE_PADDING[model.device.type != "cpu"]):
            inputs = _padded(model, [texts.kinds[texts.index[pair]] for pair in batch])
            index = torch.tensor([images.index[pair] - start for pair in batch], device=model.device)
            rewards[batch] = model.rewards(memory, image_index=index, **inputs).float().cpu()
            tick(len(batch))
    return rewards


def _batches(pairs: list[int], lengths: list[int], batch_size: int, free: int) -> Iterator[list[int]]:
    """Split pairs, which are sorted by length, into batches whose padding is at most a sixteenth of the tokens plus
    `free` tokens."""
    batch, tokens = [], 0
    for pair in pairs:
        padding = (len(batch) + 1) * lengths[pair] - tokens - lengths[pair]
        if batch and (len(batch) == batch_size or padding > tokens // 16 + free):
            yield batch
            batch, tokens = [], 0
        batch.append(pair)
        tokens += lengths[pair]
    yield batch


def _score_dual(
    model: Any, images: Distinct, texts: Distinct, batch_size: int, tick: Callable[[int], None]
) -> torch.Tensor:
    """Embed both sides separately; the head then reads the pairs."""
    starts = range(0, len(images.kinds), batch_size)
    image_states = torch.cat([_encode(model, images.kinds[start : start + batch_size]) for start in starts])
    order = sorted(range(len(texts.kinds)), key=lambda text: len(texts.kinds[text]))
    made = []
    for start in range(0, len(order), batch_size):
        inputs = _padded(model, [texts.kinds[text] for text in order[start : start + batch_size]])
        made.append(model.backbone.encode_texts(model, **inputs))
    text_states = torch.empty_like(torch.cat(made))
    text_states[order] = torch.cat(made)
    rewards = torch.empty(len(texts.index))
    for start in range(0, len(texts.index), 64 * batch_size):
        pairs = slice(start, start + 64 * batch_size)
        places = (torch.tensor(index[pairs], device=model.device) for index in (images.index, texts.index))
        rewards[pairs] = model.output(model.backbone.join(image_states, text_states, *places), 0.0).float().cpu()
        tick(len(rewards[pairs]))
    return rewards


def _encode(model: Any, images: list[ImageLike]) -> torch.Tensor:
    opened = [open_image(image) for image in images]
    return model.encode_images(pixels(model.need_processor(), opened).to(model.device, model.dtype))


def _padded(model: Any, ids: list[list[int]]) -> dict[str, torch.Tensor]:
    inputs = pad(model.need_processor(), ids)
    return {name: value.to(model.device) for name, value in inputs.items()}


def _memory_bytes(model: Any) -> int:
    """Bytes of one image's keys and values in all text layers."""
    text, vision = model.config.text_config, model.config.vision_config
    places = (vision.image_size // vision.patch_size) ** 2 + 1
    return 2 * text.num_hidden_layers * text.hidden_size * places * model.dtype.itemsize


def _distinct(things: list[Any], key: Callable[[Any], Any]) -> Distinct:
    places: dict[Any, int] = {}
    seen: dict[int, Any] = {}  # compute the key of an object only once
    kinds, index = [], []
    for thing in things:
        if id(thing) not in seen:
            seen[id(thing)] = key(thing)
        place = places.setdefault(seen[id(thing)], len(kinds))
        kinds += [thing] if place == len(kinds) else []
        index.append(place)
    return Distinct(kinds, index)


def _image_key(image: ImageLike) -> str:
    """A key that is equal for equal images: a hash of a file's bytes, which needs no decoding, or of the pixels."""
    if not isinstance(image, str | Path):
        return content_id(open_image(image))
    return digest("file", read_image(image))


def _text_key(text: str) -> str:
    check_text(text)
    return text
