"""A process imports the libraries of its own models alone: each costs seconds at every start."""

import subprocess
import sys

import pytest

from cyclepref.builder.catalog.catalog import CATALOG


def imported_after(code: str) -> set[str]:
    """Which of the large libraries a fresh process has imported at the end of `code`."""
    libraries = ("transformers", "diffusers", "sentence_transformers", "lpips", "ray", "datasets")
    said = f"import sys\nprint(*[name for name in {libraries!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{said}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


LOADED = (
    "from cyclepref.builder.catalog.catalog import CATALOG\n"
    "from cyclepref.builder.metrics import load_metric\n"
    "from cyclepref.builder.models import load_model\n"
)


@pytest.mark.parametrize(
    ("code", "libraries"),
    [
        ("load_model(CATALOG['shapeworld-blip'])", {"transformers"}),
        ("load_metric(CATALOG['lpips-shapeworld'])", {"lpips"}),
        ("load_model(CATALOG['shapeworld-sd3'])", {"transformers", "diffusers"}),
    ],
)
def test_a_model_is_loaded_without_the_libraries_of_others(code, libraries):
    assert imported_after(LOADED + code) == libraries


def test_a_model_whose_own_code_is_trusted_is_watched_in_both_libraries():
    spec = CATALOG["shapeworld-blip"].model_copy(update={"trust_remote_code": True})
    code = (
        "from cyclepref.builder.models.loading import loading\nfrom cyclepref.schemas.specs import CaptionerSpec\n"
        f"spec = CaptionerSpec.model_validate_json({spec.model_dump_json()!r})\nwith loading(spec):\n    pass"
    )
    assert imported_after(code) == {"transformers", "diffusers"}
