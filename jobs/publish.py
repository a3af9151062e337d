"""`cyclepref stats` and `cyclepref publish`: commands for a finished dataset."""

import json
from typing import Any

from rich.table import Table

from cyclepref import stats
from cyclepref.builder.common.progress import plain
from cyclepref.builder.dataset.publish import check_name, prepare, publish
from cyclepref.jobs.screen import console, size_text


def print_statistics(place: str, as_json: bool = False) -> None:
    """Print the statistics of a run's dataset or of a dataset folder, as tables or as JSON."""
    found = stats(place)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for table in (_splits(found), _shortcuts(found), _scores(found), _wins(found)):
        console.print(table)
    for warning in found["warnings"]:
        console.print(plain(f"warning: {warning}"), style="yellow", soft_wrap=True)


def run_publish(place: str, repo: str, private: bool, revision: str | None, dry_run: bool, partial: bool) -> None:
    """Publish and print where the dataset is; or only print what would be sent, without touching the network."""
    check_name(repo)
    prepared = prepare(place, partial)
    table = _table(f"{prepared.folder.root} -> {repo}", "file", "size")
    for name, size in prepared.files.items():
        table.add_row(plain(name), size_text(size))
    table.add_row("in all", size_text(sum(prepared.files.values())))
    console.print(table)
    for note in prepared.notes:
        console.print(plain(f"note: {note}"), soft_wrap=True)
    if dry_run:
        console.print("dry run: nothing was sent")
        return
    done = publish(prepared, repo, private, revision)
    said = "published" if done.changed else "nothing has changed, so nothing was committed"
    console.print(plain(f"{said}: {done.url} at {done.commit}"), soft_wrap=True)


def _splits(found: dict[str, Any]) -> Table:
    table = _table("splits", "split", "inputs", "candidates", "pairs")
    for name, count in found["splits"].items():
        table.add_row(plain(name), *(f"{count[key]:,}" for key in ("inputs", "candidates", "pairs")))
    table.add_row("all", *(f"{found[key]:,}" for key in ("inputs", "candidates", "pairs")))
    return table


MODEL_MEAN = {
    "within": "pairs of one model with itself",
    "predicts": "predicted by the models' mean scores",
    "explains": "variance of an input's scores between models",
}


def _shortcuts(found: dict[str, Any]) -> Table:
    table = _table("what to know before training", "", "")
    per_input, near, chains = found["pairs_per_input"], found["duplicates"]["near"], found["transitivity"]
    spread = f"{per_input['min']} to {per_input['max']}, mean {per_input['mean']:.1f}, none in {per_input['without']:,}"
    table.add_row("pairs per input", spread)
    table.add_row("longer candidate is chosen", _share(found["length"]["longer_chosen"]))
    table.add_row("predicted by length alone", _share(found["length"]["predicts"]))
    table.add_row("predicted by the models' names alone", _share(found["identity"]["predicts"]))
    for name, label in MODEL_MEAN.items():
        table.add_row(label, _share(found["model_mean"][name]))
    table.add_row("circles among triangles of pairs", f"{chains['cyclic']:,} of {chains['triangles']:,}")
    table.add_row("chains a > b > c without a > c", f"{chains['open']:,}")
    table.add_row("candidates made by several models", f"{found['duplicates']['made_by_several_models']:,}")
    table.add_row("candidates that several inputs share", f"{found['duplicates']['shared_by_several_inputs']:,}")
    table.add_row("near-duplicates of an input's candidates", f"{near['near']:,} of {near['compared']:,} compared")
    return table


def _scores(found: dict[str, Any]) -> Table:
    quantiles = {name: of["quantiles"] for name, of in found["scores"].items()} | {"margin of a pair": found["margins"]}
    table = _table("cycle scores and margins", "", "least", "5%", "25%", "median", "75%", "95%", "greatest")
    for name, values in quantiles.items():
        if values:
            table.add_row(plain(name), *(f"{value:.4g}" for value in values.values()))
    return table


def _wins(found: dict[str, Any]) -> Table:
    names = found["models"]
    table = _table("pairs that the row's model won", "model", *(str(at + 1) for at in range(len(names))))
    for at, name in enumerate(names):
        table.add_row(plain(f"{at + 1} {name}"), *(f"{count:,}" for count in found["wins"][at]))
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=plain(title), title_justify="left")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _share(share: float | None) -> str:
    return "no pairs" if share is None else f"{share:.1%}"
