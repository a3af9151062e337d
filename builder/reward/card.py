"""The model card of a reward model."""

from pathlib import Path
from typing import Any

from builder.card import escape

PLAIN = """\
---
library_name: cyclepref
tags: [reward-model, image-text-alignment]
---

# Reward model

Scores how well an image and a text belong together; higher is better.{about}

```python
from builder.reward.model import RewardModel

model = RewardModel.from_pretrained("path/to/this/folder")
model.score(images="a.png", texts=["one caption", "another"])
model.rank(prompt="one red circle on a white background", images=["a.png", "b.png"])
```

| | |
|---|---|
{rows}
"""
# What a reader wants to know of a config, in this order.
SHOWN = (
    "backbone", "pooling", "text_mask", "head_sizes", "head_activation", "head_dropout", "head_output",
    "likelihood_weight", "fix_rate", "max_text_length", "reward_mean", "reward_std",
)  # fmt: skip

CARD = """\
---
library_name: cyclepref
tags: [reward-model, image-text-alignment, cycle-consistency, preference]
---

# Reward model

Scores how well an image and a text belong together; higher is better. Learned from preference pairs, which cycle
consistency makes without human labels (CycleReward, arXiv 2506.02095). {learned}

```python
from builder.reward.model import RewardModel

model = RewardModel.from_pretrained("path/to/this/folder")
model.score(images="a.png", texts=["one caption", "another"])
model.rank(prompt="one red circle on a white background", images=["a.png", "b.png"])
```

Started from {start}. Kept: {kept}. Settings are in `metrics.json`.

| cycle | split | inputs | pairs | pairwise accuracy | before training |
|---|---|---|---|---|---|
{rows}
"""


# What a reward means, by the loss it was learned with.
LEARNED = {
    "bradley-terry": "The loss is that of Bradley and Terry: an average training candidate has reward 0, and the "
    "difference of two rewards is the log-odds that the first candidate is the preferred one.",
    "margin": "The loss is that of Bradley and Terry with the pairs' margins: an average training candidate has "
    "reward 0, and the difference of two rewards grows with the margin to expect.",
    "mse": "The loss is the squared error against 1 for chosen and 0 for rejected candidates, as of Lee et al. (arXiv "
    "2302.12192).",
}


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """Write README.md into a model's folder from the content of its metrics.json."""
    before = metrics["pairwise_accuracy_before_training"]
    rows = [
        f"| {escape(cycle)} | {escape(split)} | {found['inputs']} | {found['pairs']} | {_share(found['accuracy'])} "
        f"| {_share(before[cycle][split]['accuracy'] if split in before[cycle] else None)} |"
        for cycle, by_split in metrics["pairwise_accuracy"].items()
        for split, found in by_split.items()
    ]
    start = Path(metrics["start"]).name if Path(metrics["start"]).exists() else metrics["start"]
    learned = LEARNED[metrics["settings"]["loss"]]
    text = CARD.format(learned=learned, start=escape(start), kept=escape(str(metrics["kept"])), rows="\n".join(rows))
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_plain_card(folder: Path, config: Any, about: str = "", overwrite: bool = False) -> None:
    """Write README.md about a model of which no training is known: its shape. A card that is there stays, unless
    `overwrite`."""
    card = folder / "README.md"
    if card.exists() and not overwrite:
        return
    rows = [f"| {name} | {escape(str(getattr(config, name)))} |" for name in SHOWN]
    text = PLAIN.format(about=f" {escape(about)}" if about else "", rows="\n".join(rows))
    card.write_text(text, encoding="utf-8")


def _share(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{accuracy:.3f}"
