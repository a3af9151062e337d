"""From a recipe's choice to a resolved spec: settings applied, revision pinned, weights hashed, fingerprint known."""

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import ValidationError

from builder.metrics import check_metric, weight_files
from builder.metrics.catalog import BY_MODALITY, LPIPS_OWN_HIGH
from builder.models.catalog import CATALOG
from schemas.cycle import Modality, ModelKind
from schemas.ids import digest, fingerprint
from schemas.recipe import MetricChoice, ModelChoice, RecipeError
from schemas.specs import CaptionerSpec, EndpointSpec, MetricSpec, PainterSpec, Spec

SPECS: dict[str, type[Spec]] = {"captioner": CaptionerSpec, "text-to-image": PainterSpec}
COMMIT = re.compile(r"[0-9a-f]{40}")
# What a model or metric is, and no setting: a recipe that could turn a metric's direction would swap every label.
FIXED = {
    *("name", "kind", "about", "licence", "evidence"),
    *("modality", "higher_is_better", "low", "high", "net", "branch"),
}
# What sits in a weights folder without changing an output.
NOT_WEIGHTS = {"README.md", ".gitattributes", "LICENSE"}


@dataclass(frozen=True)
class Resolved:
    """A spec whose output is settled: `identity` says by what, `fingerprint` is its hash."""

    spec: Any
    identity: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Id of everything that changes this model's output."""
        return fingerprint(self.identity)

    @property
    def name(self) -> str:
        """The name in the tables."""
        return self.spec.name


def model_spec(choice: ModelChoice, kind: ModelKind) -> CaptionerSpec | EndpointSpec | PainterSpec:
    """The spec that a recipe's choice names.

    Raises:
        RecipeError: for an unknown name (lists the choices), a model of the other kind, or settings that the
            spec does not know or cannot do without.
    """
    known = CATALOG.get(choice.model)
    if known is not None:
        if known.kind != kind:
            raise RecipeError(f"{choice.model} is a {known.kind}, and this place needs a {kind}: {_names(kind)}")
        base = known.model_dump()
    elif "/" in choice.model:
        base = {"repo": choice.model}
    else:
        raise RecipeError(_unknown(choice.model, kind) + "; a Hub id (org/name) or the path of a folder works too")
    spec = _apply(type(known) if known else SPECS[kind], base, choice.settings, choice.label)
    if choice.samples > 1 and spec.greedy:
        raise RecipeError(
            f"{choice.label}: samples is {choice.samples}, but greedy decoding gives one caption: "
            "set temperature above 0 in its settings, or samples to 1"
        )
    if isinstance(spec, EndpointSpec) and not (spec.base_url and spec.served_model):
        raise RecipeError(
            f"{choice.label}: an endpoint needs base_url and served_model in its settings, for example "
            "{base_url: http://localhost:8000/v1, served_model: Qwen/Qwen2.5-VL-7B-Instruct}"
        )
    return spec


def metric_spec(choice: MetricChoice, modality: Modality) -> MetricSpec:
    """The metric that a recipe names.

    Raises:
        RecipeError: for an unknown name or one that compares the other modality.
    """
    known = CATALOG.get(choice.metric)
    if isinstance(known, MetricSpec):
        if known.modality != modality:
            raise RecipeError(
                f"{choice.metric} compares {known.modality}s, and this cycle needs a metric for {modality}s"
            )
        base = known.model_dump()
        if choice.settings.keys() & {"repo", "revision"}:
            base["sha256"] = None  # of the weights that the catalog's row names
        if known.kind == "lpips" and "repo" in choice.settings:
            base["high"] = LPIPS_OWN_HIGH[known.net]
    elif known is None and "/" in choice.metric:
        base = BY_MODALITY[modality](choice.label, choice.metric, about="").model_dump()
    else:
        raise RecipeError(_unknown(choice.metric, "metric") + "; a Hub id (org/name) or the path of a folder works too")
    return _apply(MetricSpec, base, choice.settings, choice.label)


def resolve(spec: Spec, lock: dict[str, Any]) -> Resolved:
    """Settle a spec's weights: a folder by the hash of its files, a Hub repo by its commit.

    `lock` is the run's lock file as a dict; what is resolved for the first time is added to it, so that a moving
    branch cannot change a run that has begun.

    Raises:
        RecipeError: if the weights cannot be found, or a metric needs trust or a package that it does not have.
    """
    if isinstance(spec, MetricSpec):
        check_metric(spec)
    identity = spec.identity()
    repo = identity.pop("repo", None)
    if isinstance(spec, MetricSpec) and spec.sha256:
        return Resolved(spec, identity)  # checked when it is loaded, wherever it comes from
    if repo is None:
        return Resolved(spec, identity)
    if Path(repo).exists():
        identity.pop("revision", None)
        only = weight_files(spec) if isinstance(spec, MetricSpec) else ()
        return Resolved(spec, {**identity, "weights": _weights_hash(Path(repo), lock, only)})
    commit = _commit(spec, lock)
    return Resolved(spec.model_copy(update={"revision": commit}), {**identity, "repo": repo, "revision": commit})


def _apply(kind: type[Spec], base: dict[str, Any], settings: dict[str, Any], label: str) -> Any:
    free = [name for name in kind.model_fields if name not in FIXED]
    unknown = sorted(set(settings) - set(free))
    if unknown:
        raise RecipeError(f"{label}: unknown settings {', '.join(unknown)}; a {kind.__name__} has {', '.join(free)}")
    return validated(kind, {**base, **settings, "name": label}, label)


def validated(kind: type[Spec], values: dict[str, Any], label: str) -> Any:
    """A spec of some values; `label` begins the error messages.

    Raises:
        RecipeError: one message with every value that the spec refuses.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{label}: settings.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise RecipeError("\n".join(lines)) from error


def _commit(spec: Any, lock: dict[str, Any]) -> str:
    """The commit that a Hub revision means: from the lock, else asked of the Hub, or offline of its cache."""
    wanted = spec.revision or "main"
    if COMMIT.fullmatch(wanted):
        return wanted
    key = f"{spec.repo}@{wanted}"
    if key not in lock:
        try:
            if HF_HUB_OFFLINE:
                cached = snapshot_download(spec.repo, revision=wanted, local_files_only=True, allow_patterns="*.json")
                lock[key] = Path(cached).name
            else:
                lock[key] = HfApi().model_info(spec.repo, revision=wanted).sha
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError) as error:
            raise RecipeError(
                f"{spec.name}: cannot find {spec.repo} at revision {wanted!r} ({type(error).__name__}): check the "
                "name, log in with `hf auth login` if it is gated, or download it before going offline"
            ) from error
    return lock[key]


def _weights_hash(path: Path, lock: dict[str, Any], only: tuple[str, ...] = ()) -> str:
    """Hash of the files that make a model; computed again only when their sizes or times change. `only` names those
    that are read, where a folder holds several models."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    files = [f for f in files if not only or f.relative_to(path).parts[0] in only]
    files = [f for f in files if f.name not in NOT_WEIGHTS and not f.name.startswith(".")]
    if not files:
        raise RecipeError(f"{path} holds no weights: give a folder in the Hub's layout (config and safetensors)")
    stamp = digest(*(f"{f.relative_to(path)}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files))
    key = "#".join([str(path), *only])
    known = lock.get(key)
    # The stamp is of the hash as well, so that a wrong one is computed again.
    if known is None or known["stamp"] != digest(stamp, known["weights"]):
        contents = [(str(f.relative_to(path)), _file_hash(f)) for f in files]
        weights = digest(*(part for entry in contents for part in entry))
        lock[key] = {"stamp": digest(stamp, weights), "weights": weights}
    return lock[key]["weights"]


def _file_hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def _names(kind: str) -> str:
    """The catalog's names of one kind, as a list for a message."""
    metrics = kind == "metric"
    return "choose from " + ", ".join(
        n for n, s in CATALOG.items() if (isinstance(s, MetricSpec) if metrics else s.kind == kind)
    )


def _unknown(name: str, kind: str) -> str:
    close = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}: {_names(kind)}"
