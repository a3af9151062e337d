"""Licences: which is the strictest of those that a dataset comes from, by an explicit table.

Mechanical, and no legal advice: whether a model's licence binds what the model makes is for its text to say, so the
card lists them all.
"""

from dataclasses import dataclass

from cyclepref.schemas.nearest import did_you_mean
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.rules import Fault

# What a licence asks for, from the least to the most; unknown is stricter than all.
STEPS = ("public domain", "notice", "attribution", "share alike", "use restrictions", "limited", "non-commercial")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Licence:
    """A licence by its id on the Hub; where the Hub has none, `hub` is "other" and `name` says which."""

    name: str
    hub: str
    step: int


def _rows(step: str, *names: str) -> dict[str, Licence]:
    return {name: Licence(name, name, STEPS.index(step)) for name in names}


def _others(step: str, *names: str) -> dict[str, Licence]:
    return {name: Licence(name, "other", STEPS.index(step)) for name in names}


# Ids of https://huggingface.co/docs/hub/repositories-licenses, in lower case as there.
LICENCES: dict[str, Licence] = {
    **_rows("public domain", "cc0-1.0", "unlicense", "pddl"),
    **_rows("notice", "mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "bsl-1.0", "afl-3.0"),
    **_rows("attribution", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by"),
    **_rows("share alike", "cc-by-sa-3.0", "cc-by-sa-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
    **_rows("share alike", "odbl", "cdla-sharing-1.0"),
    **_rows("use restrictions", "openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m"),
    **_rows("use restrictions", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3"),
    **_others("limited", "stabilityai-ai-community", "tencent-hunyuan-community"),
    **_rows("non-commercial", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    **_rows("non-commercial", "cc-by-nc-nd-4.0", "fair-noncommercial-research-license"),
    **_others("non-commercial", "flux-1-dev-non-commercial-license", "qwen-research", "nvidia-non-commercial"),
    **_others("non-commercial", "llama-non-commercial"),
}
# How the catalog's rows write them.
ALIASES = {
    "creativeml openrail-m": "creativeml-openrail-m",
    "creativeml openrail++-m": "openrail++",
    "stability ai community": "stabilityai-ai-community",
    "tencent hunyuan community": "tencent-hunyuan-community",
    "flux.1 [dev] non-commercial": "flux-1-dev-non-commercial-license",
    "qwen research": "qwen-research",
    "nvidia (non-commercial)": "nvidia-non-commercial",
    "llama (non-commercial)": "llama-non-commercial",
    "llama 2": "llama2",
}
# Inputs that this code makes itself come under its licence.
OWN_INPUTS = {"shapeworld": "mit", "compositional": "mit"}


def known(text: str | None) -> Licence | None:
    """The licence that an id or a catalog row names ("; gated" says who may download, not what is allowed); None if it
    is not in the table."""
    name = (text or "").split(";")[0].strip().lower()
    return LICENCES.get(ALIASES.get(name, name))


def inputs_licence(given: str | None, source: str) -> str | None:
    """The licence of a recipe's inputs, None if it is not known.

    Raises:
        RecipeError: for an id that is not in the table.
    """
    if given is not None and given not in LICENCES:
        hint = did_you_mean(given, LICENCES)
        there = hint or f": choose from {', '.join(sorted(LICENCES))}"
        told = f"unknown licence {given!r}{there}; leave it out to say that it is not known"
        raise RecipeError(f"dataset.inputs_licence: {told}", (Fault((), told),))
    return given or OWN_INPUTS.get(source)


def strictest(given: dict[str, str | None]) -> tuple[str, str, list[str]]:
    """The strictest of the licences of several things: its Hub id, its name, and the things whose licence is not known.

    `given` is the licence of each thing by its name. One unknown makes the whole unknown.
    """
    found = {thing: known(text) for thing, text in given.items()}
    unknown = sorted(thing for thing, licence in found.items() if licence is None)
    if unknown or not found:
        return UNKNOWN, UNKNOWN, unknown
    first = max((licence for licence in found.values() if licence), key=lambda licence: (licence.step, licence.name))
    return first.hub, first.name, []
