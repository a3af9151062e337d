"""What a user should know about a finished build: rows that failed or were cut, and the dataset's warnings. Shown at
the end of a build, by `cyclepref status`, and in the card."""

from typing import Any

from cyclepref.schemas.errors import visible

# Reconstructions of cut prompts miss a part of the candidate; from this share on a notice says so.
CUT_WARNING = 0.01


def notices(counts: dict[str, Any]) -> list[str]:
    """One sentence for each notice, the most serious first; `counts` are those of run.json."""
    return [*_failed(counts), *_cut(counts), *counts.get("dataset", {}).get("warnings", [])]


def _failed(counts: dict[str, Any]) -> list[str]:
    found = []
    if failed := counts["inputs"]["failed"]:
        found.append(
            f"{failed} of {counts['inputs']['read']} inputs could not be read; `cyclepref failures` names them."
        )
    for stage in ("candidates", "reconstructions", "scores", "safety"):
        for model, count in counts.get(stage, {}).items():
            if count["failed"]:
                found.append(
                    f"{stage}: {visible(model, keep='')} failed on {count['failed']} of {count['wanted']} rows; "
                    "`cyclepref failures` says why, and build --retry-failed tries them again."
                )
    return found


def _cut(counts: dict[str, Any]) -> list[str]:
    """Notices about candidates that the backward model cut; cut candidates themselves are among the dataset's
    warnings."""
    found = []
    made = counts.get("reconstructions", {})
    for model, count in counts.get("truncated", {}).get("reconstructions", {}).items():
        ok = made.get(model, {}).get("ok", 0)
        if count["truncated"] and count["truncated"] >= CUT_WARNING * ok:
            found.append(
                f"{visible(model, keep='')}: {count['truncated']} of {ok} reconstructions were made from a candidate "
                "that was cut at a token limit, so their scores ignore the rest of it. Use a backward model that reads "
                "more, or shorter candidates."
            )
    return found
