"""The layout of a dataset, named as FORMAT:PLACE or recognised by its files and columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.common.places import may_be_on_hub
from cyclepref.builder.preferences.filters import Filters
from cyclepref.builder.preferences.layouts import (
    detailcaps,
    hpdv2,
    hpdv3,
    imagereward,
    imagerewarddb,
    pickapic,
    rlhfv,
    trl,
)
from cyclepref.builder.preferences.layouts.audit import AUDIT, audited_run, open_audit
from cyclepref.builder.preferences.layouts.items import Form, Judged, JudgedDataset, JudgedError
from cyclepref.builder.preferences.layouts.ours import CyclePref
from cyclepref.builder.preferences.layouts.rows import Rows, choose, open_rows
from cyclepref.builder.preferences.load import open_pairs, select

# In the order in which they are tried: rows of ImageRewardDB would also pass as HPDv2, and RLAIF-V's as TRL's.
LAYOUTS = (imagereward, imagerewarddb, hpdv2, hpdv3, pickapic, rlhfv, detailcaps, trl)
FORMS: dict[str, Form] = {layout.FORM.name: layout.FORM for layout in LAYOUTS}
OURS = "cyclepref"
NAMES = (OURS, *FORMS, AUDIT)


@dataclass(frozen=True)
class FormRows:
    """A dataset of rows in one of FORMS."""

    place: str
    form: Form
    rows: Rows

    @property
    def name(self) -> str:
        """The layout's name."""
        return self.form.name

    @property
    def scores(self) -> str | None:
        """The kind of its candidates' scores."""
        return self.form.scores

    @property
    def split(self) -> str | None:
        """The split's name, if its files have one."""
        return self.rows.split

    def __len__(self) -> int:
        return self.rows.count

    def __iter__(self) -> Iterator[Judged]:
        roots = self.rows.roots
        for number, row in enumerate(self.form.group(self._checked()), 1):
            yield self.form.read(f"{self.place}, input {number}", row, roots)

    def _checked(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.rows, 1):
            if not isinstance(row, dict) or not self.form.fits(row):
                raise JudgedError(f"{self.place}, row {number} is not in the layout {self.form.name}: {_shape(row)}")
            yield row


def open_judged(dataset: str, split: str | None = None, revision: str | None = None) -> JudgedDataset:
    """A dataset of judgements: `dataset` is a folder, a file or a repository on the Hub, or FORMAT:one of these.

    FORMAT is one of NAMES. Without it, its files and the keys of its first row show the layout. `split` None means
    "test" if it exists, or the only split.

    Raises:
        JudgedError: if there is no dataset, no such split, or its layout is none of NAMES.
        LoadError: if a dataset of our own is inconsistent.
    """
    name, place = layout_of(dataset, revision)
    if name == AUDIT:
        return open_audit(place, split)
    return _ours(place, split, revision) if name == OURS else open_rows_of(name, place, split, revision)


def layout_of(dataset: str, revision: str | None = None) -> tuple[str | None, str]:
    """The layout of a dataset, one of NAMES, and its place. The layout is None if the dataset is not ours and its rows
    have to show it.

    Raises:
        JudgedError: if it names an unknown layout.
    """
    name, _, place = dataset.partition(":")
    if place.startswith("//"):
        raise JudgedError(f"{dataset} is an address: datasets are read from this machine or the Hub; copy it here")
    if not place or Path(dataset).exists():
        if audited_run(dataset):
            return AUDIT, dataset
        return OURS if _is_ours(dataset, revision) else None, dataset
    if name not in NAMES:
        raise JudgedError(f"{dataset!r} names the layout {name!r}. Choose from: {', '.join(NAMES)}")
    return name, place


def open_rows_of(name: str | None, place: str, split: str | None, revision: str | None = None) -> FormRows:
    """A dataset in one of FORMS, as `layout_of` gives it.

    Raises:
        JudgedError: if the dataset or split does not exist, or has another layout.
    """
    rows = open_rows(place, split, revision)
    form = FORMS[name] if name else _known(place, rows)
    if not form.fits(rows.first):
        raise JudgedError(f"{place} is not in the layout {form.name}: its first row has {_shape(rows.first)}")
    return FormRows(place, form, rows)


def _known(place: str, rows: Rows) -> Form:
    for form in FORMS.values():
        if form.fits(rows.first):
            return form
    raise JudgedError(
        f"{place} has no known layout: its first row has {_shape(rows.first)}. Name it as FORMAT:{place}, "
        f"FORMAT being one of {', '.join(NAMES)}"
    )


def _shape(row: object) -> str:
    keys = ", ".join(sorted(map(str, row))) if isinstance(row, dict) else f"{type(row).__name__} {row!r}"
    return f"the keys {keys:.300}" if isinstance(row, dict) else f"{keys:.80}"


def _is_ours(place: str, revision: str | None) -> bool:
    path = Path(place).expanduser()
    if path.is_dir():
        run = (path / "store").is_dir() or (path / "run.json").is_file()
        return run or (path / "rankings").is_dir() or _is_cycleprefdb(path)
    if path.exists() or not may_be_on_hub(place):
        return False
    import datasets

    try:
        return "rankings" in datasets.get_dataset_config_names(place, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError):  # open_rows says what is wrong
        return False


def _is_cycleprefdb(path: Path) -> bool:
    """Whether JSON has CyclePrefDB's layout, which its `scores` of generations show."""
    from cyclepref.builder.preferences.cycleprefdb import CyclePrefDB

    try:
        return any(
            {"generations", "scores"} <= set(open_rows(str(file), None).first)
            for file in CyclePrefDB(path).files.values()
        )
    except JudgedError:
        return False


def _ours(place: str, split: str | None, revision: str | None) -> CyclePref:
    source = open_pairs(place, revision)
    rankings = source.read(choose(place, split, source.splits()))
    pairs, _ = select(rankings, Filters())
    return CyclePref(place, rankings, pairs)
