"""A prepared dataset folder -> a dataset repository on the Hub, by huggingface_hub's own folder upload.

Two commits: the data and the pictures first, under names that carry the edition, and then the card together with the
removal of the old edition's files. So a reader meets the old dataset or the new one and never half of one, a break in
between leaves the old one whole, and the same command again sends only what is missing; with nothing changed there is
no commit. (With hf_xet the client itself may split the first commit into several; that path has not been tested.)
"""

import glob
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_token
from huggingface_hub.constants import DEFAULT_REVISION, ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging, validate_repo_id

from cyclepref.builder.dataset import format as dataset_format
from cyclepref.builder.dataset.format import PICTURES
from cyclepref.builder.dataset.reader import CARD, DatasetFolder
from cyclepref.builder.run.folder import Folder
from cyclepref.builder.run.record import PROGRESS_FILE as NOTES
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.run_files import ProgressFile, RunJson

FOLDERS = (*dataset_format.CONFIGS, PICTURES)
# A later edition removes these from a repository; whatever else lies there is not ours.
OURS = re.compile(rf"{dataset_format.DATA_FILE.pattern}|{PICTURES}/(examples|scores|wins)-[0-9a-f]{{12}}\.(png|jpg)")
HEAD = re.compile(r"---\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
# An input's split is drawn by its hash. A split that is empty although that is less likely than this is a fault.
RARE = 0.001
AGAIN = "run the same command again: what has arrived is not sent twice"


class PublishError(CyclePrefError, RuntimeError):
    """A dataset that cannot be published, or a repository that cannot be written to; nothing is half published."""


@dataclass(frozen=True)
class Prepared:
    """What would be published: the folder, its files with their sizes in bytes, the card last; and what to know."""

    folder: Folder
    files: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Where a dataset is, at which commit, and whether anything had to be sent."""

    url: str
    commit: str
    changed: bool


def prepare(place: str, partial: bool = False) -> Prepared:
    """The files of a run's dataset, or of a dataset folder: those that its card names.

    A run's `dataset` is judged as the run is, however it is named.

    A split that is empty because there are few inputs is left out, and `notes` say so.

    Raises:
        PublishError: if the run has not finished, or a split is empty that should not be, and not `partial`; the
            message says what is missing.
        DatasetError: if there is no dataset in it, or not all of it.
    """
    run = _run_of(place)
    folder = Folder(run.address("dataset") if _is_run(run) else place)
    missing = unfinished(run) if _is_run(run) else []
    if missing and not folder.exists(CARD):
        raise PublishError(f"{place} has no dataset yet: {'; '.join(missing)}. Run `cyclepref build` to the end")
    published = DatasetFolder.of(folder)
    empty, notes = _empty(run, published), []
    for split, what, by_chance in empty:
        (notes if by_chance else missing).append(f"the split {split} has no {what}")
    if missing and not partial:
        raise PublishError(
            f"{place} is not complete: {'; '.join(missing)}. Finish the build (an empty split needs more inputs, or a "
            "share of 0 in the recipe's `splits`), or publish what is there with --partial"
        )
    names = [name for splits in published.files.values() for files in splits.values() for name in files]
    text = folder.read_file(CARD, lambda file: file.read()).decode("utf-8", "replace")
    names += [f"{PICTURES}/{name}" for name in folder.names(PICTURES) if f"({PICTURES}/{name})" in text]
    sizes = {f"{at}/{name}": info.size for at in ("", *FOLDERS) for name, info in folder.listed(at)}
    sizes = {name.lstrip("/"): size for name, size in sizes.items()}
    few = f", as is likely of {published.input_count} inputs: it is published without"
    return Prepared(folder, {name: sizes[name] for name in [*sorted(names), CARD]}, tuple(note + few for note in notes))


def _run_of(place: str) -> Store:
    """The run that a place is, or that it is the dataset of; whatever is there, if it is neither."""
    path = Path(place).expanduser().resolve()
    if "://" not in place and path.name == "dataset" and _is_run(above := Store(path.parent)):
        return above
    return Store(place)


def _is_run(place: Store) -> bool:
    return place.exists("run.json") or place.exists(NOTES)


def unfinished(run: Store) -> list[str]:
    """What the latest build of a run has not done, in words; nothing if it has finished."""
    notes = run.read_json(NOTES, ProgressFile)
    if notes is None or notes["state"] == "finished":
        return [] if run.exists("run.json") else ["no build in it has finished"]
    found = status(run)
    left = [
        f"{stage['stage']}: {count['left']:,} of {count['wanted']:,} rows of {model} are missing"
        for stage in found["stages"]
        for model, count in stage["models"].items()
        if count["left"]
    ]
    return [f"the latest build is {found['state']}", *left]


def _empty(run: Store, published: DatasetFolder) -> list[tuple[str, str, bool]]:
    """Splits that have no inputs, or none with a pair, although the recipe gives them a share; and whether that is by
    chance, which it is not for `train`: nobody could learn from the rest."""
    recipe, inputs = (run.read_json("run.json", RunJson) or {}).get("recipe"), published.input_count
    shares = {split: published.rows_of("rankings", split) / inputs for split in published.files["rankings"]}
    if recipe:
        shares = {split: share for split, share in recipe["splits"].items() if share > 0}
    chance = {split: (1 - share) ** inputs for split, share in shares.items()}
    without = {"inputs": set(shares) - set(published.files["rankings"])}
    without["pairs"] = set(shares) - set(published.files.get("pairs", {})) - without["inputs"]
    return [
        (split, what, split != "train" and chance[split] > RARE)
        for split in dataset_format.SPLITS
        for what, splits in without.items()
        if split in splits
    ]


def publish(prepared: Prepared, repo: str, private: bool = False, revision: str | None = None) -> Outcome:
    """Bring a prepared dataset to the Hub: `repo` is "org/name", and `revision` a branch; what is not there is made.

    Raises:
        PublishError: for a name that is none, no token, no permission to write, a repository of another kind or of
            another visibility, or a network that fails; after each the same call can be made again.
    """
    check_name(repo)
    if "://" in prepared.folder.root:
        raise PublishError(f"{prepared.folder.root} is not on this machine: copy it to a local folder first")
    if HF_HUB_OFFLINE:
        raise PublishError("HF_HUB_OFFLINE is set, so nothing can be published: unset it, or use --dry-run")
    if not get_token():
        raise PublishError("no token for the Hub: log in with `hf auth login`, or set HF_TOKEN to one that can write")
    with _explained(repo):
        api = HfApi()
        _open(api, repo, private, revision)
        before = _head(api, repo, revision)
        _send(api, prepared, repo, revision)
        after = _head(api, repo, revision)
    return Outcome(f"{ENDPOINT}/datasets/{repo}", after, before != after)


def check_name(repo: str) -> None:
    """Refuse what cannot be a repository.

    Raises:
        PublishError: with the rule that it breaks.
    """
    try:
        validate_repo_id(repo)
        if repo.count("/") != 1:
            raise HFValidationError("it must name a user or an organisation, and a dataset of theirs")
    except HFValidationError as error:
        rule = str(error).split(":")[0].replace("\n", " ")
        raise PublishError(f"{repo!r:.120} is no repository ({rule}): give ORG/NAME") from error


def _open(api: HfApi, repo: str, private: bool, revision: str | None) -> None:
    """Make the repository and the branch, unless they are there.

    Raises:
        PublishError: if what is there is of another kind, of another visibility, or another dataset.
    """
    try:
        there = api.repo_info(repo, repo_type="dataset")
    except RepositoryNotFoundError:
        for kind in ("model", "space"):
            if api.repo_exists(repo, repo_type=kind):
                raise PublishError(
                    f"{repo} is a {kind} on the Hub, and no dataset: publish under another name"
                ) from None
        api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
    else:
        if private and not there.private:
            raise PublishError(
                f"{repo} is there and is public, so it would not be private: publish under another name, or make it "
                "private in its settings first"
            )
        _refuse_another(api, repo, revision)
    if revision and revision != DEFAULT_REVISION:
        api.create_branch(repo, branch=revision, repo_type="dataset", exist_ok=True)


def _refuse_another(api: HfApi, repo: str, revision: str | None) -> None:
    """Refuse to write over a dataset that is not CyclePref's: on the branch, or on main, where a new one starts."""
    there = revision and api.revision_exists(repo, revision, repo_type="dataset")
    where = {"repo_id": repo, "repo_type": "dataset", "revision": revision if there else None}
    names = api.list_repo_files(**where)
    card = ""
    if CARD in names:
        with tempfile.TemporaryDirectory() as folder:  # not what the client has cached, which may be of old
            card = Path(api.hf_hub_download(**where, filename=CARD, local_dir=folder)).read_text("utf-8", "replace")
    head, text = (found[1], card[found.end() :]) if (found := HEAD.match(card)) else ("", card)
    if dataset_format.DATA_FILE.search(head):
        return
    others = [name for name in names if name not in (CARD, ".gitattributes") and not OURS.fullmatch(name)]
    if text.strip() or re.search(r"^(configs|dataset_info):", head, re.MULTILINE):
        others.insert(0, CARD)
    if others:
        raise PublishError(
            f"{repo} holds another dataset, not one of CyclePref ({_plain(', '.join(others[:3]))}): publish under "
            "another name, or remove its files first"
        )


def _send(api: HfApi, prepared: Prepared, repo: str, revision: str | None) -> None:
    """The two commits."""
    where = {"repo_id": repo, "repo_type": "dataset", "folder_path": prepared.folder.root, "revision": revision}
    data = [glob.escape(name) for name in prepared.files if name != CARD]
    api.upload_folder(**where, allow_patterns=data, commit_message="Data of a new edition")
    there = api.list_repo_files(repo, repo_type="dataset", revision=revision)
    stale = [glob.escape(name) for name in there if OURS.fullmatch(name) and name not in prepared.files]
    message = "Card of a new edition, without the files of the old one"
    api.upload_folder(**where, allow_patterns=[CARD], delete_patterns=stale or None, commit_message=message)


def _head(api: HfApi, repo: str, revision: str | None) -> str:
    return str(api.repo_info(repo, repo_type="dataset", revision=revision).sha)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """What the client raises, as one clear error without its request: that could hold a token."""
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn of a commit that needs not be made
    try:
        yield
    except PublishError:
        raise
    except RevisionNotFoundError:
        raise PublishError(f"{repo} has no such branch, and it could not be made: check --revision") from None
    except HfHubHTTPError as error:
        raise PublishError(_http(repo, error)) from None
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        wraps = isinstance(error, RuntimeError | LocalEntryNotFoundError)
        cause = error.__cause__ if wraps and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            raise PublishError(_http(repo, cause)) from None
        raise PublishError(f"publishing {repo} broke off ({_plain(cause)}): {AGAIN}") from None
    finally:
        logging.set_verbosity(said)


def _http(repo: str, error: Any) -> str:
    """What an answer of the Hub means."""
    code = error.response.status_code
    if code == 401:
        return f"the Hub does not know this token (401): log in with `hf auth login`, or set HF_TOKEN, and {AGAIN}"
    if code == 403:
        return (
            f"this token may not write to {repo} (403): use one with write access to {repo.split('/')[0]}, or "
            "another organisation, and run the same command again"
        )
    said = f": {_plain(error.server_message)}" if error.server_message else ""
    return f"publishing {repo} broke off, the Hub answered {code}{said}; {AGAIN}"


def _plain(cause: Any) -> str:
    """An error's class and message on one line, without the token."""
    text = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    for secret in filter(None, (get_token(), os.environ.get("HF_TOKEN"))):
        text = text.replace(secret, "***")
    return " ".join(text.split())[:300]
