"""The model card of a reward model."""

from pathlib import Path
from typing import Any

from cyclepref.builder.common.markdown import escape
from cyclepref.builder.reward.origin import Origin, about_training, head

USE = """\
```python
from cyclepref.builder.reward.model import RewardModel

model = RewardModel.from_pretrained("path/to/this/folder")
model.score(images="a.png", texts=["one caption", "another"])
model.rank(prompt="one red circle on a white background", images=["a.png", "b.png"])
```

Without CyclePref, by transformers and the code in this folder (`modeling_cyclepref_reward.py`):

```python
from PIL import Image
from transformers import AutoModel

model = AutoModel.from_pretrained("path/to/this/folder", trust_remote_code=True)
model.score(images=Image.open("a.png").convert("RGB"), texts=["one caption", "another"])
model.reward_of_pixels(pixel_values=model.preprocess(colours), texts="a prompt")  # (n, 3, h, w) in [0, 1]; gradients
```"""

PLAIN = """\
{head}
# Reward model

Scores how well an image and a text belong together; higher is better.{about}

{use}

| | |
|---|---|
{rows}
"""
# The fields of a config that a card shows, in this order.
SHOWN = (
    "backbone", "pooling", "text_mask", "head_sizes", "head_activation", "head_dropout", "head_output",
    "likelihood_weight", "fix_rate", "max_text_length", "reward_mean", "reward_std",
)  # fmt: skip

CARD = """\
{head}
# Reward model

Scores how well an image and a text belong together; higher is better. Learned from preference pairs, which cycle
consistency makes without human labels (CycleReward, arXiv 2506.02095). {learned}

{use}

Started from {start}. Kept: {kept}. Settings are in `metrics.json`. Licence: {licence}.

| cycle | split | inputs | pairs | pairwise accuracy | before training |
|---|---|---|---|---|---|
{rows}
"""


# The meaning of a reward, by the loss of its training.
LEARNED = {
    "bradley-terry": "The loss is that of Bradley and Terry: an average training candidate has reward 0, and the "
    "difference of two rewards is the log-odds that the first candidate is the preferred one.",
    "margin": "The loss is that of Bradley and Terry with the pairs' margins: an average training candidate has "
    "reward 0, and the difference of two rewards grows with the expected margin.",
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
    about = about_training(metrics)
    start = Path(metrics["start"]).name if Path(metrics["start"]).exists() else metrics["start"]
    start += f" at {metrics['revision']}" if metrics.get("revision") else ""
    text = CARD.format(
        head=head(about, "cycle-consistency", "preference"),
        learned=LEARNED[metrics["settings"]["loss"]],
        use=USE,
        start=escape(start),
        kept=escape(str(metrics["kept"])),
        licence=_licence_in_words(about),
        rows="\n".join(rows),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_plain_card(
    folder: Path, config: Any, about: str = "", overwrite: bool = False, origin: Origin | None = None
) -> None:
    """Write README.md for a model whose training is not known; it describes the shape. An existing card stays, unless
    `overwrite`."""
    card = folder / "README.md"
    if card.exists() and not overwrite:
        return
    rows = [f"| {name} | {escape(str(getattr(config, name)))} |" for name in SHOWN]
    about = f" {escape(about)}" if about else ""
    text = PLAIN.format(head=head(origin or Origin()), about=about, use=USE, rows="\n".join(rows))
    card.write_text(text, encoding="utf-8")


def _share(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{accuracy:.3f}"


def _licence_in_words(origin: Origin) -> str:
    if origin.unknown:
        return f"not known, since that of {escape(', '.join(origin.unknown))} is not"
    return f"{escape(origin.licence)}, the strictest licence among the models and datasets it was made of"
