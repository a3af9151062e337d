"""Inputs with their candidates, for best-of-n: from a run's store, or from a folder of generations with prompts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from cyclepref.builder.common.files import files_under, from_json, read_file
from cyclepref.builder.common.images import ENDINGS
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel, best
from cyclepref.builder.reward.opening import ImageLike
from cyclepref.builder.reward.scoring import Scores
from cyclepref.builder.run.content import content_by_id
from cyclepref.builder.run.store import Store
from cyclepref.schemas.cycle import Modality

METADATA = "metadata.jsonl"
GROUPS_AT_ONCE = 16


@dataclass(frozen=True)
class InputWithCandidates:
    """One input, called `name`, and its `candidates`: n images of a prompt, or n texts of an image. `models` made them,
    if known."""

    kind: Modality
    name: str
    candidates: list[str]
    images: list[ImageLike]
    texts: list[str]
    models: list[str]


class Choice(NamedTuple):
    """A candidate that was kept: its id or path, its reward, the model that made it ("" if unknown), its content, and
    its input."""

    candidate: str
    reward: float
    model: str
    text: str
    image: ImageLike


@dataclass(frozen=True)
class Kept:
    """The best candidates of one input, best first. `kind` is their modality, `of` the number of all candidates, and
    `mean` the mean reward of all of them."""

    kind: Modality
    name: str
    kept: list[Choice]
    of: int
    mean: float


def open_groups(folder: str | Path) -> tuple[int, Iterator[InputWithCandidates]]:
    """The number of inputs with candidates in a run directory or a folder of generations, and an iterator that reads
    them.

    A folder of generations has pictures, at any depth, and their prompts: in `metadata.jsonl`, with one line for each
    picture that has `file_name` and `prompt` (or `text`), or beside each picture in a `.txt` file of the same name.
    Pictures with the same prompt are candidates of one input.

    Raises:
        RewardError: if there are no candidates, a picture has no prompt, or a prompt has no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RewardError(f"no folder at {folder}: give a run directory, or a folder of pictures with prompts")
    found = _of_run(Store(folder)) if (folder / "candidates").is_dir() and (folder / "store").is_dir() else None
    count, groups = found or _of_pictures(folder)
    if not count:
        raise RewardError(f"{folder} has no candidates: give a run directory, or a folder of pictures with prompts")
    return count, groups


def best_of_groups(
    model: RewardModel, groups: Iterable[InputWithCandidates], k: int, batch_size: int = 64
) -> Iterator[Kept]:
    """The best k candidates of each input, or all of them if there are fewer.

    Rejection sampling with a reward: Lee et al. 2023 (arXiv 2302.12192) keep the best 4 of 16 images.

    Raises:
        RewardError: if k is not positive.
    """
    if k < 1:
        raise RewardError(f"k must be positive, got {k}")
    groups = iter(groups)
    while some := list(islice(groups, GROUPS_AT_ONCE)):
        images = [image for group in some for image in group.images * (len(group.candidates) // len(group.images))]
        texts = [text for group in some for text in group.texts * (len(group.candidates) // len(group.texts))]
        rewards = model.score(images=images, texts=texts, batch_size=batch_size)
        for group in some:
            mine, rewards = Scores(rewards[: len(group.candidates)]), rewards[len(group.candidates) :]
            yield _kept(group, mine, min(k, len(mine)))


def _kept(group: InputWithCandidates, rewards: Scores, k: int) -> Kept:
    kept = [
        Choice(
            group.candidates[at],
            rewards[at],
            group.models[at],
            group.texts[at if group.kind == "text" else 0],
            group.images[at if group.kind == "image" else 0],
        )
        for at in best(rewards, k).order
    ]
    return Kept(group.kind, group.name, kept, len(rewards), sum(rewards) / len(rewards))


def _of_run(store: Store) -> tuple[int, Iterator[InputWithCandidates]]:
    """Each input's candidates; equal ones appear once."""
    rows = store.read_view("candidates")
    rows = rows.filter(pc.equal(rows["status"], "ok")).sort_by(
        [("input_id", "ascending"), ("generation_id", "ascending")]
    )
    candidates: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows.to_pylist():
        candidates.setdefault(row["input_id"], {}).setdefault(row["content_id"], row)
    return len(candidates), _read_run(store, {name: list(found.values()) for name, found in candidates.items()})


def _read_run(store: Store, candidates: dict[str, list[dict[str, Any]]]) -> Iterator[InputWithCandidates]:
    names = iter(candidates)
    while some := list(islice(names, GROUPS_AT_ONCE)):
        inputs = content_by_id(store, "inputs", "input_id", some)
        ids = [row["generation_id"] for name in some for row in candidates[name]]
        made = content_by_id(store, "generations", "generation_id", ids)
        for name in some:
            mine = [row["generation_id"] for row in candidates[name]]
            contents, models = [made[id_] for id_ in mine], [row["model"] for row in candidates[name]]
            if isinstance(inputs[name], str):
                yield InputWithCandidates("image", name, mine, contents, [inputs[name]], models)
            else:
                yield InputWithCandidates("text", name, mine, [inputs[name]], contents, models)


def _of_pictures(folder: Path) -> tuple[int, Iterator[InputWithCandidates]]:
    pictures = {path.relative_to(folder).as_posix(): path for path in files_under(folder, ENDINGS)}
    metadata = folder / METADATA
    prompts = _from_metadata(metadata, pictures) if metadata.is_file() else _from_texts(pictures)
    groups: dict[str, list[str]] = {}
    for name in pictures:
        groups.setdefault(prompts[name], []).append(name)
    made = (
        InputWithCandidates("image", prompt, names, [pictures[name] for name in names], [prompt], [""] * len(names))
        for prompt, names in groups.items()
    )
    return len(groups), made


def _from_metadata(file: Path, pictures: dict[str, Path]) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = from_json(line)
            name, prompt = row["file_name"], row["prompt"] if "prompt" in row else row["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise RewardError(f"{file}, line {number}: not JSON with file_name and prompt (or text)") from error
        if name not in pictures or not isinstance(prompt, str):
            raise RewardError(f"{file}, line {number}: {name!r} is not a picture here, or its prompt is not a text")
        prompts[name] = prompt
    missing = [name for name in pictures if name not in prompts]
    if missing:
        raise RewardError(f"{file} has no prompt for {len(missing)} pictures, {missing[0]!r} among them")
    return prompts


def _from_texts(pictures: dict[str, Path]) -> dict[str, str]:
    missing = [name for name, path in pictures.items() if not path.with_suffix(".txt").is_file()]
    if missing:
        raise RewardError(
            f"{len(missing)} pictures have no prompt, {missing[0]!r} among them: write {METADATA} with a line for each "
            '({"file_name": ..., "prompt": ...}), or a .txt of the same name beside each'
        )
    return {name: _text(path.with_suffix(".txt")).strip() for name, path in pictures.items()}


def _text(file: Path) -> str:
    data = read_file(file)
    if isinstance(data, OSError):
        raise RewardError(f"cannot read {file}: {data}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RewardError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
