"""`cyclepref train-reward`: train, and print a table of the results."""

from pathlib import Path
from typing import Any

import datasets
import transformers
from rich.table import Table

from cyclepref import train_reward
from cyclepref.builder.common.progress import console, plain


def run_train_reward(
    sources: list[str],
    out: Path,
    recipe_path: Path | None,
    changes: dict[str, Any],
    workers: int = 1,
    cache: Path | None = None,
) -> None:
    """Train, on this machine or with Ray's workers, and print the results."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    metrics = train_reward(sources, out, recipe=recipe_path, workers=workers, cache=cache, **changes)
    console.print(accuracy_table(metrics))
    console.print(plain(f"reward model: {out}   (RewardModel.from_pretrained({str(out)!r}))"), soft_wrap=True)


def accuracy_table(metrics: dict[str, Any]) -> Table:
    """Pairwise accuracy by cycle and split, after and before training."""
    table = Table(title="Pairwise accuracy", title_justify="left")
    for name in ("cycle", "split", "inputs", "pairs", "accuracy", "before"):
        table.add_column(name, justify="left" if name in ("cycle", "split") else "right")
    before = metrics["pairwise_accuracy_before_training"]
    for cycle, by_split in metrics["pairwise_accuracy"].items():
        for split, found in by_split.items():
            was = before[cycle].get(split, {}).get("accuracy")
            table.add_row(
                cycle, split, str(found["inputs"]), str(found["pairs"]), _percent(found["accuracy"]), _percent(was)
            )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"
