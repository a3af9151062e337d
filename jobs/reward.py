"""Reward models on the command line: `cyclepref score`, `rank`, `best-of-n` and `convert-reward`."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import transformers
from rich.console import Console
from rich.table import Table

from cyclepref import convert_reward
from cyclepref._rewards import open_model as _open
from cyclepref.builder.common.progress import plain, stage
from cyclepref.builder.reward.best_of_n import Kept, best_of_groups, open_groups
from cyclepref.builder.reward.kept import BestOfN, row_of
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.scoring import Ranking, paired

# Results go to stdout, messages about the work to stderr.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def open_model(path: str, device: str | None) -> RewardModel:
    """A reward model, on the GPU if there is one, unless `device` says otherwise.

    Raises:
        RewardError: if there is no such model or device.
    """
    transformers.utils.logging.disable_progress_bar()
    return _open(path, device)


def run_score(images: list[str], texts: list[str], model: RewardModel, batch_size: int, as_json: bool) -> None:
    """Print the reward of each pair."""
    images, texts = paired(images, texts)
    with stage("score", len(texts)) as tick:
        scores = model.score(images=images, texts=texts, batch_size=batch_size, tick=tick)
    cut = set(scores.truncated)
    rows = [
        {"image": image, "text": text, "reward": reward, "truncated": place in cut}
        for place, (image, text, reward) in enumerate(zip(images, texts, scores, strict=True))
    ]
    if as_json:
        print(json.dumps({"scores": rows}, indent=2, ensure_ascii=False))
        return
    _print_rows("", [(row["reward"], row["image"], _marked(row["text"], row["truncated"])) for row in rows])


def run_rank(of: Literal["image", "text"], one: str, many: list[str], model: RewardModel, as_json: bool) -> None:
    """Print images for the prompt `one`, or captions for the image `one`, best first."""
    found = model.rank(prompt=one, images=many) if of == "image" else model.rank_captions(image=one, texts=many)
    if as_json:
        print(json.dumps(_ranking(of, one, many, found), indent=2, ensure_ascii=False))
        return
    cut = set(found.truncated)
    _print_rows(one, [(found.rewards[at], _marked(many[at], at in cut)) for at in found.order])


def run_best_of_n(
    folder: Path, k: int, model: RewardModel, batch_size: int, as_json: bool, out: Path | None = None
) -> None:
    """Print the best k candidates of each input, as a table or as JSON lines, and write them into `out`."""
    count, groups = open_groups(folder)
    written = BestOfN(out) if out is not None else None
    found: list[Kept] = []
    with stage("best of n", count) as tick:
        for each in best_of_groups(model, groups, k, batch_size):
            if written:
                written.add(each)
            if as_json:
                rows = [row_of(choice, rank) for rank, choice in enumerate(each.kept, 1)]
                line = {"input": each.name, "candidates": each.kind, "kept": rows, "of": each.of, "mean": each.mean}
                print(json.dumps(line, ensure_ascii=False), flush=True)
            found.append(replace(each, kept=[choice._replace(image="") for choice in each.kept]))
            tick(1)
    if not as_json:
        for each in found:
            what = each.kept[0].text if each.kind == "image" else "captions of an image"
            title = f"{what}  ({len(each.kept)} of {each.of}{'' if each.name == what else f', input {each.name}'})"
            rows = [(c.reward, c.model, c.candidate, c.text if each.kind == "text" else "") for c in each.kept]
            _print_rows(title, rows)
    _say_gain(found, k)
    if written:
        written.close()
        print(plain(f"written to {out}: {written.file} with {written.rows} rows and their pictures"), file=sys.stderr)


def _say_gain(found: list[Kept], k: int) -> None:
    kept = [choice.reward for each in found for choice in each.kept]
    few = sum(each.of < k for each in found)
    line = f"{len(kept)} kept of {sum(each.of for each in found)}: mean reward {sum(kept) / len(kept):.4f}, of all "
    line += f"{sum(each.mean * each.of for each in found) / sum(each.of for each in found):.4f}"
    print(line + (f"; {few} inputs have fewer than {k} candidates, all of them kept" if few else ""), file=sys.stderr)


def run_convert(checkpoint: Path, kind: str, out: Path, tokenizer: str) -> None:
    """Convert a published checkpoint to a reward model, and print its size.

    Raises:
        RewardError: if `out` has something in it, or the checkpoint does not fit.
    """
    model = convert_reward(checkpoint, kind, out, tokenizer)
    weights = sum(weight.numel() for weight in model.parameters())
    console.print(plain(f"{out}: {kind}, {weights / 1e6:.1f} million weights"), soft_wrap=True)
    console.print(plain(f"next: cyclepref score --model {out} --image FILE --text TEXT"), soft_wrap=True)


def _ranking(of: str, one: str, many: list[str], found: Ranking) -> dict[str, Any]:
    rows = [{of: many[at], "reward": found.rewards[at], "truncated": at in found.truncated} for at in found.order]
    return {"prompt" if of == "image" else "image": one, "ranking": rows}


def _marked(text: str, cut: bool) -> str:
    return f"{text} [cut]" if cut else text


def _print_rows(title: str, rows: list[tuple[Any, ...]]) -> None:
    table = Table(title=plain(title) if title else None, title_justify="left", show_header=False, box=None)
    for reward, *names in rows:
        table.add_row(f"{reward:+.4f}", *(plain(_short(name)) for name in names))
    console.print(table)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
