"""The JSON files of a run directory that are read back: what must be in them, and what to do with one that is wrong.

Only the keys that are read are described; a file may hold more. `REMEDY` is the last part of an error: the way out.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

# A Hub commit. A cache may use another name for it, but never an empty one or a path.
COMMIT = re.compile(r"[^\s/\\]+")
HEX32 = re.compile(r"[0-9a-f]{32}")
Count = Annotated[StrictInt, Field(ge=0)]
Seconds = Annotated[float, Field(strict=True)]


class RunFile(BaseModel):
    """A JSON object of which some keys are known."""

    model_config = ConfigDict(extra="allow")
    REMEDY: ClassVar[str] = "restore or remove it"


class LockFile(RootModel[dict[str, Any]]):
    """lock.json: what each model was resolved to. "org/name@branch" -> commit; path of a folder -> the hash of its
    weights, and a stamp of its files that shows whether the hash still holds."""

    REMEDY: ClassVar[str] = (
        "restore it, or remove what is wrong from it: that model is resolved again, to what its branch or folder holds "
        "now"
    )

    @model_validator(mode="after")
    def _settled(self) -> "LockFile":
        for name, value in self.root.items():
            if isinstance(value, dict):
                good = value.keys() == {"stamp", "weights"} and all(
                    isinstance(each, str) and HEX32.fullmatch(each) for each in value.values()
                )
            else:
                good = isinstance(value, str) and COMMIT.fullmatch(value)
            if not good:
                raise ValueError(f"{name!r:.200} must be a commit or a stamp and a hash of weights, got {value!r:.100}")
        return self


class Fingerprinted(RunFile):
    """A model of a run."""

    fingerprint: StrictStr | None = None


class Edition(RunFile):
    """A written dataset: the id in its files' names, and split -> number of rows."""

    edition: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$", strict=True)]
    splits: dict[str, dict[str, Count]]


class Counts(RunFile):
    """How many rows of a run were made and failed."""

    dataset: Edition | None = None


class RunJson(RunFile):
    """run.json: the recipe and models of a finished run, and its results."""

    REMEDY: ClassVar[str] = "remove it and run the same build again, which writes it anew and makes nothing twice"

    recipe: dict[str, Any] | None = None
    models: dict[str, Fingerprinted] = {}
    counts: Counts | None = None
    seconds: dict[str, Seconds] | None = None


class StageNote(RunFile):
    """One stage of the latest build."""

    stage: StrictStr
    table: Literal["sources", "inputs", "models", "generations", "similarities", "verdicts", "failures"]
    wanted: Annotated[str, Field(pattern=r"^wanted/[A-Za-z0-9-]+\.parquet$", strict=True)]
    todo: Count
    done: Count
    failed: Count
    began: Seconds
    ended: Seconds | None
    # Not in the notes of earlier versions.
    rows_a_second: Seconds | None = None
    seconds_left: Seconds | None = None


class ProgressFile(RunFile):
    """progress.json: how far the latest build has come."""

    REMEDY: ClassVar[str] = "remove it: the next build writes it anew"

    state: Literal["running", "finished", "stopped"]
    recipe: StrictStr | None
    stages: list[StageNote]
    updated: Seconds


class MeasuredCost(BaseModel):
    """What rows of a model took on a device."""

    model_config = ConfigDict(extra="forbid")

    model: StrictStr
    fingerprint: StrictStr
    device: StrictStr
    batch_size: Annotated[StrictInt, Field(ge=1)]
    num_gpus: Annotated[float, Field(ge=0)]
    rows: Annotated[StrictInt, Field(ge=1)]
    seconds: Annotated[float, Field(ge=0)]
    loads: Count
    load_s: Annotated[float, Field(ge=0)]


class CostsFile(RunFile):
    """costs.json: what rows took, by model, device and settings."""

    REMEDY: ClassVar[str] = "remove it: costs are assumed until the next build measures them"

    measured: list[MeasuredCost]


class SpentFile(RunFile):
    """spent.json: what all builds of the run directory took, in hours and in GPU hours."""

    REMEDY: ClassVar[str] = "remove it: --budget then counts from nothing"

    hours: Annotated[float, Field(ge=0)]
    gpu_hours: Annotated[float, Field(ge=0)]


class InFlight(RunFile):
    """store/attempts/STAGE/*.json: rows that were being worked on."""

    REMEDY: ClassVar[str] = "remove it: all that is lost is that these rows may have to be tried alone"

    ids: list[StrictStr]


class Announcement(BaseModel):
    """.locks/*.json: which process works in the directory."""

    model_config = ConfigDict(extra="forbid")
    REMEDY: ClassVar[str] = "remove it if no build runs"

    command: StrictStr
    host: StrictStr
    pid: StrictInt
    since: StrictStr
    machine: StrictStr
    started: StrictStr


def what_is_wrong(kind: type[BaseModel], content: Any) -> str:
    """Why a file's content is not valid, naming the first wrong place; empty if it is valid."""
    if not isinstance(content, dict):
        return f"it must hold an object, got {type(content).__name__}"
    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        given = "" if not place or first["type"] == "missing" else f", got {first['input']!r:.100}"
        return f"{place}: {rule}{given}" if place else rule
    return ""
