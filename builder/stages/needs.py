"""What models need from outside and do not have is asked for before a build's first row, without loading weights.

Otherwise a backbone that has to be downloaded, a gated repository or a key that is not set would show when the model's
turn comes: a metric's after every caption and reconstruction was made.
"""

import contextlib
import importlib.util
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
)

from cyclepref.builder.catalog.resolve import metric_spec, model_spec, resolve
from cyclepref.builder.metrics.requirements import (
    DREAMSIM_FILES,
    OFFLINE_PACKAGE,
    OFFLINE_REPO,
    REMOTE_BRANCHES,
    weight_files,
)
from cyclepref.builder.models.weight_files import cut_short, lacking
from cyclepref.builder.run.tracking import package_missing
from cyclepref.builder.stages.safety import safety_spec
from cyclepref.schemas.direct_specs import DirectSpec
from cyclepref.schemas.recipe import Recipe, RecipeError
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import EndpointSpec, MetricSpec, PainterSpec, Spec

# Where torchvision keeps the backbones that LPIPS runs over, by `net`.
BACKBONES = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
# Where DreamSim's checkpoints are, by `branch`.
RELEASES = "https://github.com/ssundaram21/dreamsim/releases/download"
CHECKPOINTS = {
    branch: f"{RELEASES}/v0.2.{'1' if branch == 'dinov2_vitb14' else '0'}-checkpoints/dreamsim_{branch}_checkpoint.zip"
    for branch in DREAMSIM_FILES
}
# The packages of quantisation methods, by transformers' `quant_method`: the name to import, and the one to install.
QUANTISERS = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "torchao": ("torchao", "torchao"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "awq": ("gptqmodel", "gptqmodel"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
}
# Packages that a processor asks for, by repository.
PROCESSORS = {"HuggingFaceTB/SmolVLM2-2.2B-Instruct": "num2words"}
TIMEOUT_S = 10


class NeedsError(RecipeError):
    """What a recipe needs from outside is not there: all of it, a line each, with its place and the way out."""


def require(recipe: Recipe, lock: dict[str, Any], run: dict[str, Any] | None) -> None:
    """Refuse a recipe of which something is missing here. Models of a finished `run` (its run.json) are not asked for:
    they may have no more to do.

    Raises:
        NeedsError: with everything that is missing.
    """
    models, problems = [], []
    for spec in _specs(recipe):
        try:
            models.append(resolve(spec, lock))
        except RecipeError as error:
            problems.append(str(error))
    known = {model.get("fingerprint") for model in run["models"].values()} if run else set()
    problems += needs(model for model in models if model.fingerprint not in known)
    refuse(problems + package_missing(recipe.tracking))


def refuse(problems: list[str]) -> None:
    """Raise what is missing as one error, if anything is.

    Raises:
        NeedsError: with every problem once.
    """
    lines = list(dict.fromkeys(problems))
    if len(lines) > 1:
        raise NeedsError("\n".join([f"{len(lines)} things that the recipe needs are not here:", *lines]))
    if lines:
        raise NeedsError(lines[0])


def needs(models: Iterable[Resolved]) -> list[str]:
    """What is missing on this machine for these models to load, a line each: the model, the place, the way out.

    Looked at: Hub repositories that are neither whole in the cache nor to be reached, or gated; files that a folder
    lacks or that are cut short; what torchvision and DreamSim download; packages; a server's client and key; code of
    a repository that would run. Builds that join a cluster load their models elsewhere: for them it is an empty list.
    """
    if os.environ.get("RAY_ADDRESS") not in (None, "", "local"):
        return []
    return [f"{model.name}: {problem}" for model in models for problem in _missing(model.spec)]


def _specs(recipe: Recipe) -> list[Spec]:
    cycle = recipe.shape
    specs: list[Spec] = [model_spec(choice, cycle.forward_kind) for choice in recipe.forward]
    specs.append(model_spec(recipe.backward, cycle.backward_kind))
    specs += [metric_spec(choice, cycle.input, recipe.backward) for choice in recipe.all_metrics]
    return [*specs, *([safety_spec(recipe.safety)] if recipe.safety else [])]


def _missing(spec: Any) -> list[str]:
    if isinstance(spec, EndpointSpec):
        return _endpoint(spec)
    if isinstance(spec, DirectSpec):
        return _missing(spec.model)
    if isinstance(spec, MetricSpec) and spec.repo is None:
        return _backbone(spec) if spec.kind == "lpips" else _dreamsim(spec)
    if isinstance(spec, MetricSpec) and spec.kind in ("lpips", "dreamsim"):
        # That their folder has these files was seen when it was resolved.
        files = [Path(spec.repo, name) for name in weight_files(spec) if name.endswith(".safetensors")]
        return [f"{file} {why}: download or copy it again" for file in files if (why := cut_short(file))]
    if spec.repo == OFFLINE_REPO and importlib.util.find_spec(OFFLINE_PACKAGE):
        return []
    return [*_packages(spec), *(_folder(Path(spec.repo), spec) if Path(spec.repo).is_dir() else _hub(spec))]


# ---- weights on the Hub, or in a folder ------------------------------------------------------------------------


def _folder(folder: Path, spec: Any) -> list[str]:
    """What a folder in the Hub's layout lacks."""
    lacks = lacking(folder, spec)
    if lacks:
        return [f"{folder} {'; '.join(lacks)}: download or copy the model again"]
    return _own_code(folder / _indexes(spec)[0], spec)


def _hub(spec: Any) -> list[str]:
    revision = spec.revision or "main"
    where = {"cache_dir": constants.HF_HUB_CACHE, "revision": revision}
    found = [try_to_load_from_cache(spec.repo, name, **where) for name in _indexes(spec)]
    cached = next((Path(path) for path in found if isinstance(path, str)), None)
    lacks = lacking(cached.parent, spec) if cached else ["is not there"]
    if not lacks:
        return _own_code(cached, spec)
    place = f"{spec.repo} at revision {revision[:12]} {'; '.join(lacks)} in the cache {constants.HF_HUB_CACHE}"
    fetch = f"`hf download {spec.repo} --revision {revision}`"
    if constants.HF_HUB_OFFLINE:
        return [f"{place}, and HF_HUB_OFFLINE is set: unset it, or run {fetch} and bring the cache here"]
    try:
        return _own_code(_asked_for(spec, revision), spec)
    except GatedRepoError:
        page = f"{constants.ENDPOINT}/{spec.repo}"
        return [f"{spec.repo} is gated: accept its terms at {page}, then `hf auth login` (or set HF_TOKEN)"]
    except LocalEntryNotFoundError as error:
        return [f"{place}, and {constants.ENDPOINT} cannot be reached ({_reason(error)}): run {fetch} with a network"]
    except EntryNotFoundError:
        names = " or ".join(_indexes(spec))
        return [f"{spec.repo} at revision {revision[:12]} has no {names}: it is no {spec.kind} in the Hub's layout"]
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        return [f"{place}, and {constants.ENDPOINT} does not give it ({_reason(error)}): run {fetch} with a network"]


def _asked_for(spec: Any, revision: str) -> Path:
    """The file that says what a repository holds, downloaded if the Hub gives it to us.

    Raises:
        EntryNotFoundError, HfHubHTTPError, httpx2.HTTPError: if it does not; asked even where the file is cached.
    """
    *others, last = _indexes(spec)
    for name in others:
        with contextlib.suppress(RemoteEntryNotFoundError):
            get_hf_file_metadata(hf_hub_url(spec.repo, name, revision=revision), timeout=TIMEOUT_S)
            return Path(hf_hub_download(spec.repo, name, revision=revision))
    get_hf_file_metadata(hf_hub_url(spec.repo, last, revision=revision), timeout=TIMEOUT_S)
    return Path(hf_hub_download(spec.repo, last, revision=revision))


def _indexes(spec: Any) -> tuple[str, ...]:
    """The files of which a repository has one, to say what it holds."""
    if isinstance(spec, PainterSpec):
        return ("model_index.json",)
    # A sentence-transformers model may have its config in a folder of its own.
    return ("config.json", "modules.json") if spec.kind == "sbert" else ("config.json",)


def _own_code(index: Path, spec: Any) -> list[str]:
    """Whether a model is code of its own repository, which nothing runs unasked."""
    if spec.trust_remote_code or not index.is_file():
        return []
    try:
        config = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        return [f"{index} is not JSON: download or copy the model again"]
    own = isinstance(config.get("_class_name"), list)
    if config.get("auto_map"):
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        own = config.get("model_type") not in CONFIG_MAPPING
    if not own:
        return []
    return [
        f"{spec.repo} runs code of its own: read it, and set trust_remote_code: true in its settings if you trust it"
    ]


# ---- packages, servers, downloads ------------------------------------------------------------------------------


def _packages(spec: Any) -> list[str]:
    config = getattr(spec, "quantization_config", None) or {}
    bits = config.get("load_in_4bit") or config.get("load_in_8bit")
    wanted = [QUANTISERS.get(config.get("quant_method") or ("bitsandbytes" if bits else ""))]
    wanted.append((PROCESSORS[spec.repo],) * 2 if spec.repo in PROCESSORS else None)
    return [
        f"the package {install} is missing: pip install {install}"
        for module, install in filter(None, wanted)
        if not _installed(module)
    ]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package within one that is missing
        return False


def _endpoint(spec: EndpointSpec) -> list[str]:
    problems = []
    if not _installed("openai"):
        problems.append("captioners on a server need the openai client: pip install 'cyclepref[endpoint]'")
    if spec.api_key_env and not os.environ.get(spec.api_key_env, "").strip():
        problems.append(
            f"the environment variable {spec.api_key_env} (api_key_env) is empty or not set: export it before the build"
        )
    return problems


def _backbone(spec: MetricSpec) -> list[str]:
    """LPIPS's backbone, which torchvision downloads."""
    url = BACKBONES[str(spec.net)]
    file = _torch_hub() / "checkpoints" / url.rpartition("/")[2]
    why = None if file.is_file() else _unreachable(url)
    if why is None:
        return []
    return [
        f"its backbone is not in {file}, and {url} cannot be reached ({why}): run once with a network, or download the "
        "file to that place"
    ]


def _dreamsim(spec: MetricSpec) -> list[str]:
    branch, folder = str(spec.branch), _torch_hub() / "dreamsim"
    problems = []
    missing = [name for name in DREAMSIM_FILES[branch] if not (folder / name).exists()]
    why = _unreachable(CHECKPOINTS[branch]) if missing else None
    if why:
        problems.append(
            f"{folder} has no {', '.join(missing)}, and {CHECKPOINTS[branch]} cannot be reached ({why}): run once "
            "with a network, or unpack that file there"
        )
    code = REMOTE_BRANCHES.get(branch)
    checkout = f"{code.replace('/', '_')}_main" if code else ""
    if code and not any((place / checkout).is_dir() for place in (folder, folder.parent)):
        why = _unreachable(f"https://github.com/{code}")
        if why:
            problems.append(
                f"the code of github.com/{code} is not in {folder / checkout} and cannot be reached ({why}): run once "
                "with a network, or use dreamsim-clip, which needs none"
            )
    return problems


def _torch_hub() -> Path:
    """torch.hub's folder, by its own rule."""
    if torch := sys.modules.get("torch"):
        return Path(torch.hub.get_dir())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))).expanduser() / "hub"


def _unreachable(url: str) -> str | None:
    """Why an address does not answer, or None if it does."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        # A server that answers is there; some refuse to tell about a file what they would give.
        return f"HTTP {error.code}" if error.code in (404, 410) else None
    except (OSError, ValueError) as error:
        return _reason(error)
    return None


def _reason(error: BaseException) -> str:
    return type(getattr(error, "reason", None) or error).__name__
