"""The head of a page: what was built from what, by which models, when and with which code; what became of every row,
how long it took, and what is missing."""

from pathlib import PurePosixPath
from typing import Any

from cyclepref.builder.run.record import PROGRESS_FILE
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.run_files import ProgressFile, RunJson

# What a pair count is called (see PairCount in builder/pairing/pair.py).
LEFT_OUT = {
    "equal_outputs": "equal outputs",
    "too_close": "closer than min_margin",
    "within_noise": "within the noise of the backward model",
    "poor_chosen": "the better one is poor itself",
    "other_models": "of different models (within, balance)",
    "kept": "kept as pairs",
}
ROLES = {"captioner": "captioner", "text-to-image": "text-to-image pipeline"}


def facts(store: Store, price_per_hour: float | None = None) -> dict[str, Any]:
    """What the head of a page says, as plain values. `price_per_hour` is what an hour of the machines costs, in the
    user's own money; without it nothing is said of money.

    Raises:
        StoreError: if the directory has no run.
    """
    run = store.read_json("run.json", RunJson) or {}
    recorded = store.exists(PROGRESS_FILE)
    now = status(store) if recorded else None
    recipe = run.get("recipe") or {}
    counts = run.get("counts") or {}
    return {
        "title": recipe.get("name") or (now or {}).get("recipe") or PurePosixPath(store.root).name,
        "folder": PurePosixPath(store.root.split("?")[0]).name,
        "cycle": recipe.get("cycle"),
        "story": _story(recipe),
        "state": now["state"] if now else "finished",
        "error": now["error"] if now else None,
        "code": run.get("cyclepref"),
        "python": run.get("python"),
        "libraries": run.get("libraries") or {},
        "began": _began(store) if recorded else None,
        "updated": now["updated"] if now else None,
        "models": [_model(name, about) for name, about in (run.get("models") or {}).items()],
        "stages": _stages(now, run, price_per_hour),
        "priced": price_per_hour is not None,
        "seconds": sum((run.get("seconds") or {}).values()) or None,
        "failures": now["failures"] if now else [],
        "notices": now["notices"] if now else (counts.get("dataset") or {}).get("warnings", []),
        "inputs": counts.get("inputs"),
        "pairs": [(LEFT_OUT[name], count) for name, count in (counts.get("pairs") or {}).items() if name in LEFT_OUT],
        "possible": (counts.get("pairs") or {}).get("possible"),
        "splits": (counts.get("dataset") or {}).get("splits") or {},
    }


def _story(recipe: dict[str, Any]) -> str:
    """The cycle in a sentence."""
    if not recipe.get("cycle"):
        return ""
    cycle = CYCLES[recipe["cycle"]]
    source = recipe["inputs"].get("path") or recipe["inputs"]["source"]
    what = {"image": "images", "text": "texts"}
    back = recipe.get("backward") or {}
    turned = back.get("name") or back.get("model") or ""
    return (
        f"{what[cycle.input].capitalize()} of {PurePosixPath(str(source)).name}, to {what[cycle.candidate]} by "
        f"{len(recipe['forward'])} {ROLES[cycle.forward_kind]}s, and back by {turned}"
    )


def _began(store: Store) -> float | None:
    return (store.read_json(PROGRESS_FILE, ProgressFile) or {}).get("began")


def _model(name: str, about: dict[str, Any]) -> dict[str, str]:
    weights = about.get("repo") or about.get("served_model") or "local weights"
    revision = about.get("revision") or about.get("weights") or about.get("fingerprint") or ""
    return {"name": name, "kind": about.get("kind", ""), "weights": str(weights), "revision": str(revision)[:12]}


def _stages(now: dict[str, Any] | None, run: dict[str, Any], price: float | None) -> list[dict[str, Any]]:
    """A row for each stage and model: of the record of the latest build where there is one, else of run.json. Seconds
    and money are the stage's, so they stand with its first model."""
    seconds = run.get("seconds") or {}
    if now is not None:
        listed = [
            (each["stage"], each["models"], each["rows_a_second"], each["seconds_left"]) for each in now["stages"]
        ]
    else:
        names = ("candidates", "reconstructions", "scores", "safety")
        counts = run.get("counts") or {}
        listed = [(name, counts[name], None, None) for name in names if counts.get(name)]
    rows = []
    for stage, models, rate, left in listed:
        took = seconds.get(stage)
        money = None if price is None or took is None else took / 3600 * price
        for at, (model, count) in enumerate(models.items()):
            whole = {"seconds": took, "rate": rate, "left_s": left, "money": money} if at == 0 else {}
            rest = count["wanted"] - count["ok"] - count["failed"]
            rows.append({"stage": stage, "model": model, "left": rest, **count, **whole})
    told = {row["stage"] for row in rows}
    rows += [
        {"stage": stage, "model": "", "seconds": took, "money": None if price is None else took / 3600 * price}
        for stage, took in seconds.items()
        if stage not in told
    ]
    return rows
