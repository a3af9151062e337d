"""From a recipe's choice to a resolved spec: settings applied, revision pinned, weights hashed, fingerprint known."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.metrics import BY_MODALITY, LPIPS_OWN_HIGH
from cyclepref.builder.metrics.requirements import check_metric, weight_files
from cyclepref.schemas.cycle import READS, Modality, ModelKind
from cyclepref.schemas.direct_specs import DirectSpec
from cyclepref.schemas.ids import digest
from cyclepref.schemas.nearest import did_you_mean
from cyclepref.schemas.recipe import MetricChoice, ModelChoice, RecipeError
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.rules import Fault, check
from cyclepref.schemas.specs import CaptionerSpec, EndpointSpec, MetricSpec, PainterSpec, Spec

log = logging.getLogger("cyclepref.models")

SPECS: dict[str, type[Spec]] = {"captioner": CaptionerSpec, "text-to-image": PainterSpec}
COMMIT = re.compile(r"[0-9a-f]{40}")
# Fields that a recipe must not set, since they define the model or metric: a recipe that reversed a metric's direction
# would swap every label.
FIXED = {
    *("name", "kind", "about", "licence", "evidence"),
    *("modality", "higher_is_better", "low", "high", "net", "branch", "logarithm"),
}
# Fields of metrics with weights of their own, which a direct metric has not.
OF_NO_USE = {"repo", "revision", "sha256", "trust_remote_code", "model"}
HOW_IT_RUNS = ("batch_size", "num_gpus", "num_cpus", "timeout_s", "load_timeout_s")
# What a direct metric's model is not asked for. Set alike, so that another value of it makes no rows anew.
UNUSED: dict[str, dict[str, Any]] = {
    "captioner": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 77, "resample": 0},
    "text-to-image": {"steps": 1, "guidance": 0.0, "negative_prompt": None, "arguments": {}, "resample": 0},
}
# Fields of metrics with weights of their own, which a direct metric has not.
OF_NO_USE = {"repo", "revision", "sha256", "trust_remote_code", "model"}
HOW_IT_RUNS = ("batch_size", "num_gpus", "num_cpus", "timeout_s", "load_timeout_s")
# What a direct metric's model is not asked for. Set alike, so that another value of it makes no rows anew.
UNUSED: dict[str, dict[str, Any]] = {
    "captioner": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 77, "resample": 0},
    "text-to-image": {"steps": 1, "guidance": 0.0, "negative_prompt": None, "arguments": {}, "resample": 0},
}
# Files of a weights folder that do not change an output.
NOT_WEIGHTS = {"README.md", ".gitattributes", "LICENSE"}


def model_spec(choice: ModelChoice, kind: ModelKind) -> CaptionerSpec | EndpointSpec | PainterSpec:
    """The spec that a recipe's choice names.

    Raises:
        RecipeError: if the name is unknown (the message suggests the nearest ones), the model is of the other kind, or
            settings are unknown or missing. `faults` has every one of them, with its place.
    """
    known = CATALOG.get(choice.model)
    if isinstance(known, MetricSpec) or (known is not None and known.kind != kind):
        is_ = "a metric" if isinstance(known, MetricSpec) else f"a {known.kind} model"
        raise _refusal(
            choice.label, [Fault(("model",), f"{choice.model} is {is_}, but this place needs a {kind}{_list(kind)}")]
        )
    if known is None and (told := _no_weights(choice.model, kind)):
        raise _refusal(choice.label, [Fault(("model",), told)])
    base = known.model_dump() if known else {"repo": choice.model}
    spec, faults = _apply(type(known) if known else SPECS[kind], base, choice.settings, choice.label, choice.model)
    if spec and choice.samples > 1 and spec.greedy:
        told = (
            f"is {choice.samples}, but greedy decoding gives one caption: set temperature above 0 in its settings, or "
            "samples to 1"
        )
        faults.append(Fault(("samples",), told))
    if isinstance(spec, EndpointSpec) and not (spec.base_url and spec.served_model):
        told = (
            "an endpoint needs base_url and served_model in its settings, for example "
            "{base_url: http://localhost:8000/v1, served_model: Qwen/Qwen2.5-VL-7B-Instruct}"
        )
        faults.append(Fault(("settings",), told))
    if faults:
        raise _refusal(choice.label, faults)
    return spec


def metric_spec(choice: MetricChoice, modality: Modality, backward: ModelChoice | None = None) -> MetricSpec:
    """The metric that a recipe names. `backward` is the recipe's backward model, which a direct metric uses if its
    settings name no model; without both its model stays open, and it cannot be loaded.

    Raises:
        RecipeError: if the name is unknown, the metric compares the other modality, or settings are wrong; as
            `model_spec`.
    """
    known, at = CATALOG.get(choice.metric), ("metric",)
    if isinstance(known, MetricSpec):
        if known.modality != modality:
            told = f"{choice.metric} compares {known.modality}s, but this cycle needs a metric for {modality}s"
            raise _refusal(choice.label, [Fault(at, f"{told}{_list('metric')}")])
        if isinstance(known, DirectSpec):
            return _direct_spec(choice, known, backward)
        base = known.model_dump()
        if choice.settings.keys() & {"repo", "revision"}:
            base["sha256"] = None  # it belongs to the weights of the catalog's row
        if known.kind == "lpips" and "repo" in choice.settings:
            base["high"] = LPIPS_OWN_HIGH[known.net]
    elif known is not None:
        raise _refusal(choice.label, [Fault(at, f"{choice.metric} is a {known.kind} model{_list('metric')}")])
    elif told := _no_weights(choice.metric, "metric"):
        raise _refusal(choice.label, [Fault(at, told)])
    else:
        base = BY_MODALITY[modality](choice.label, choice.metric, about="").model_dump()
    spec, faults = _apply(MetricSpec, base, choice.settings, choice.label, choice.metric)
    if faults:
        raise _refusal(choice.label, faults)
    return spec


def _direct_spec(choice: MetricChoice, known: DirectSpec, backward: ModelChoice | None) -> MetricSpec:
    """A direct metric with the model that it uses, run as that model is run unless the metric's settings differ."""
    settings = dict(choice.settings)
    used, faults = (backward, []) if "model" not in settings else check(ModelChoice, settings.pop("model"))
    if faults:
        raise _refusal(choice.label, [Fault(("settings", "model", *fault.at), fault.message) for fault in faults])
    base = known.model_dump(exclude={"model"})
    if used is not None:
        model = model_spec(used.model_copy(update={"samples": 1}), READS[known.reads])
        if isinstance(model, EndpointSpec):
            told = f"{known.name} needs a model that this build loads, and {used.model} runs on a server: name another"
            raise _refusal(choice.label, [Fault(("settings", "model"), told)])
        base |= {name: getattr(model, name) for name in HOW_IT_RUNS}
        base["model"] = model.model_copy(update=UNUSED[model.kind])
    spec, faults = _apply(type(known), base, settings, choice.label, choice.metric, FIXED | OF_NO_USE)
    if faults:
        raise _refusal(choice.label, faults)
    return spec


def resolve(spec: Spec, lock: dict[str, Any]) -> Resolved:
    """Determine a spec's weights exactly: a folder by the hash of its files, a Hub repo by its commit.

    `lock` is the run's lock file as a dict. New results are added to it, so that a moving branch cannot change a run
    that has begun.

    Raises:
        RecipeError: if the weights cannot be found, or a metric lacks a package or the trust that it needs.
    """
    if isinstance(spec, MetricSpec):
        check_metric(spec)
    found = _resolved(spec, lock)
    log.info("%s: %s", spec.name, _told(found))
    return found


def _resolved(spec: Spec, lock: dict[str, Any]) -> Resolved:
    identity = spec.identity()
    if isinstance(spec, DirectSpec):
        if spec.model is None:
            return Resolved(spec, identity)
        model = _resolved(spec.model, lock)
        return Resolved(spec.model_copy(update={"model": model.spec}), {**identity, "model": model.identity})
    repo = identity.pop("repo", None)
    if isinstance(spec, MetricSpec) and spec.sha256:
        return Resolved(spec, identity)  # loading checks the hash, wherever the weights come from
    if repo is None:
        return Resolved(spec, identity)
    if Path(repo).exists():
        identity.pop("revision", None)
        only = weight_files(spec) if isinstance(spec, MetricSpec) else ()
        try:
            return Resolved(spec, {**identity, "weights": _weights_hash(Path(repo), lock, only)})
        except OSError as error:
            raise RecipeError(f"{spec.name}: cannot read {repo}: {error}") from error
    commit = _commit(spec, lock)
    return Resolved(spec.model_copy(update={"revision": commit}), {**identity, "repo": repo, "revision": commit})


def _told(model: Resolved) -> str:
    """One line about a model and how it is run, for the log."""
    spec, of = model.spec, model.identity
    if isinstance(spec, DirectSpec) and spec.model:
        of = of["model"]
    place = of.get("repo") or getattr(spec, "repo", None) or spec.server or f"the {spec.kind} package"
    revision = of.get("weights") or of.get("revision") or of.get("sha256") or ""
    run = f"batches of {spec.batch_size}, {spec.num_gpus:g} of a GPU, {spec.num_cpus} CPUs"
    return f"{spec.kind}, {place} {revision[:12]}, fingerprint {model.fingerprint[:12]}; {run}"


def _apply(
    kind: type[Spec], base: dict[str, Any], settings: dict[str, Any], label: str, model: str, fixed: set[str] = FIXED
) -> tuple[Any, list[Fault]]:
    """A spec made from a base and a recipe's settings, or None, and what is wrong with the settings."""
    free = [name for name in kind.model_fields if name not in fixed]
    refused = [Fault(("settings", name), _no_setting(name, free, model)) for name in sorted(set(settings) - set(free))]
    known = {name: value for name, value in settings.items() if name in free}
    spec, faults = check(kind, {**base, **known, "name": label})
    faults = [*refused, *(Fault(("settings", *at), told) for at, told in faults)]
    return (None if faults else spec), faults


def settled(kind: type[Spec], base: dict[str, Any], settings: dict[str, Any], label: str, fixed: set[str]) -> Any:
    """A spec made from a base and settings, which must not include those in `fixed`; `label` begins the error messages.

    Raises:
        RecipeError: for everything that is wrong with the settings.
    """
    spec, faults = _apply(kind, base, settings, label, "", fixed)
    if faults:
        raise _refusal(label, faults)
    return spec


def _no_setting(name: str, free: list[str], model: str) -> str:
    if name in FIXED:
        return f"belongs to the model and cannot be set; there are {', '.join(free)}"
    hint = did_you_mean(name, free)
    where = f"; `cyclepref models {model}` shows all" if model in CATALOG else ""
    return f"unknown setting{hint}{where}" if hint and where else f"unknown setting{hint}; there are {', '.join(free)}"


def _refusal(label: str, faults: list[Fault]) -> RecipeError:
    """The error for one model or metric; a recipe's error adds the place of each fault in its file."""
    lines = [f"{label}: {'.'.join(map(str, fault.at))}: {fault.message}" for fault in faults]
    return RecipeError("\n".join(lines), tuple(faults))


def _commit(spec: Any, lock: dict[str, Any]) -> str:
    """The commit of a Hub revision: from the lock, else from the Hub, or offline from its cache."""
    wanted = spec.revision or "main"
    if COMMIT.fullmatch(wanted):
        return wanted
    key = f"{spec.repo}@{wanted}"
    if key not in lock:
        lock[key] = commit_of(spec.name, spec.repo, wanted)
    return lock[key]


def commit_of(name: str, repo: str, revision: str) -> str:
    """The current commit of a Hub repository's revision; offline, the one in the Hub's cache. `name` begins the error.

    Raises:
        RecipeError: if the repository or the revision cannot be found.
    """
    try:
        if HF_HUB_OFFLINE:
            return Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns="*.json")).name
        return HfApi().model_info(repo, revision=revision).sha
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError) as error:
        raise RecipeError(
            f"{name}: cannot find {repo} at revision {revision!r} ({type(error).__name__}): check the "
            "name, log in with `hf auth login` if it is gated, or download it before going offline"
        ) from error


def _weights_hash(path: Path, lock: dict[str, Any], only: tuple[str, ...] = ()) -> str:
    """Hash of a model's files; computed again only when their sizes or times change. `only` names the files that are
    read, if a folder holds several models."""
    files = [path] if path.is_file() else sorted(_files(path))
    files = [f for f in files if not only or f.relative_to(path).parts[0] in only]
    files = [f for f in files if f.name not in NOT_WEIGHTS and not f.name.startswith(".")]
    if not files:
        raise RecipeError(f"{path} holds no weights: give a folder in the Hub's layout (config and safetensors)")
    stamp = digest(*(f"{f.relative_to(path)}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files))
    key = "#".join([str(path), *only])
    known = lock.get(key)
    # The stamp also covers the hash, so that an altered hash is computed again.
    if known is None or known["stamp"] != digest(stamp, known["weights"]):
        contents = [(str(f.relative_to(path)), _file_hash(f)) for f in files]
        weights = digest(*(part for entry in contents for part in entry))
        lock[key] = {"stamp": digest(stamp, weights), "weights": weights}
    return lock[key]["weights"]


def _files(folder: Path, within: tuple[str, ...] = ()) -> Iterator[Path]:
    """The files below a folder. Links are followed, as loaders do, except those that lead back to a folder around them.
    `within`: the real paths of the folders around this one."""
    real = os.path.realpath(folder)
    if real in within:
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, (*within, real))
        elif entry.is_file():
            yield entry


def _file_hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def _list(kind: str) -> str:
    return f": `cyclepref models --kind {kind}` lists them"


def _no_weights(name: str, kind: str) -> str | None:
    """Why a name that is not in the catalog is neither a Hub id nor a folder; None if it may be one."""
    ways = "a Hub id (org/name) or the path of a folder works too"
    if "/" not in name:
        kinds = [n for n, s in CATALOG.items() if kind in (s.kind, "metric" if isinstance(s, MetricSpec) else s.kind)]
        hint = did_you_mean(name, kinds)
        return f"unknown {kind} {name!r}{hint}{_list(kind)}; {ways}"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        there = Path(name)
        return None if there.exists() else f"no folder {name} (looked for {there.absolute()}): mend the path; {ways}"
    return None
