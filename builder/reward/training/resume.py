"""Which training an output folder belongs to, and the checkpoints in it, from which a stopped training resumes."""

import json
import shutil
from pathlib import Path
from typing import Any

from cyclepref.builder.common.progress import console, plain
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.training.prepare import wait, worker
from cyclepref.builder.reward.training.writing import replace_text, writing
from cyclepref.builder.run.folder import Folder, StoreError

# The folder for checkpoints and caches beside the model. Deleting it at any time costs only time.
WORK = "work"
METRICS, STATE = "metrics.json", "trainer_state.json"

Identity = dict[str, str]


def finished(out: Path, identity: Identity) -> dict[str, Any] | None:
    """The metrics of this same run, if it has ended."""
    metrics = _read(out / METRICS)
    if metrics.get("identity") != identity:
        return None
    console.print(plain(f"{out} is finished"), soft_wrap=True)
    return metrics


def claim(out: Path, identity: Identity, replace: bool = False) -> Path:
    """The folder of this run's checkpoints; the run's identity is written beside them before the first one.

    Raises:
        RewardError: if `out` holds the model or the checkpoints of another training (with `replace` these are removed),
            or unrelated files, or cannot be written to.
    """
    folder, noted = out / WORK / "checkpoints", out / WORK / "run.json"
    wait()
    _refuse_others(out)
    other = _of_another(out, folder, noted, identity)
    if other is not None and not replace:
        raise RewardError(other)
    wait()  # no worker may change the folder before all have checked it
    if worker()[0] == 0:
        if other is not None:
            (out / METRICS).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        with writing(folder.parent):
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(noted, json.dumps(identity, indent=2) + "\n")
    wait()
    return folder


def begun_with(out: Path) -> str | None:
    """The start of the unfinished training whose checkpoints are in `out`; None if there is none."""
    if (out / METRICS).is_file() or last_checkpoint(out / WORK / "checkpoints") is None:
        return None
    return _read(out / WORK / "run.json").get("start")


def _refuse_others(out: Path) -> None:
    """Refuse, with a RewardError, a folder that has files but none of a training."""
    try:
        Folder(out).refuse_others((WORK, METRICS, "config.json"), "training")
    except StoreError as error:
        raise RewardError(str(error)) from error


def _of_another(out: Path, folder: Path, noted: Path, identity: Identity) -> str | None:
    """Why `out` cannot be used, if it holds the files of another training; None if it can."""
    held = {f"delete {out / WORK} to begin anew": ("checkpoints", _read(noted))} if last_checkpoint(folder) else {}
    if (out / METRICS).is_file():
        held["delete it first"] = ("a finished model", _identity(_read(out / METRICS)))
    elif (out / "config.json").is_file():  # a run that was stopped while writing its model has noted its identity
        held["delete it first"] = ("a model", _read(noted))
    for way_out, (what, whose) in held.items():
        different = [name for name, value in identity.items() if whose.get(name) != value]
        if different:
            whose_else = f"of a training with other {' and '.join(different)}" if whose else "that was not trained here"
            return f"{out} has {what} {whose_else}: give another folder, or {way_out}"
    return None


def _identity(metrics: dict[str, Any]) -> Identity:
    found = metrics.get("identity")
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is none.

    Raises:
        RewardError: if it is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise RewardError(f"{path} is damaged ({error}): remove it, or give another folder") from error
    if not isinstance(found, dict):
        raise RewardError(f"{path} is damaged (it must hold an object): remove it, or give another folder")
    return found


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint: the trainer's state is its last file."""
    found = [path.parent for path in checkpoints.glob(f"checkpoint-*/{STATE}") if _is_json(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def go_on_from(checkpoints: Path) -> Path | None:
    """The newest checkpoint. The path of the best one in it is corrected, since `checkpoints` may have been moved.

    Raises:
        RewardError: if the best one is missing.
    """
    done = last_checkpoint(checkpoints)
    if done is None:
        return None
    state = _read(done / STATE)
    if state.get("best_model_checkpoint") is not None:
        best = checkpoints / Path(state["best_model_checkpoint"]).name
        if not best.is_dir():
            way_out = f"put it back, or delete {checkpoints} to begin anew"
            raise RewardError(f"{best}, the best so far, is missing: {way_out}")
        if worker()[0] == 0:
            with writing(done):
                replace_text(done / STATE, json.dumps(state | {"best_model_checkpoint": str(best)}, indent=2) + "\n")
        wait()
    return done


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
