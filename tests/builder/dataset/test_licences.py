"""The strictest licence wins, and what is not known is said."""

import pytest

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.dataset.format import metadata
from cyclepref.builder.dataset.licences import LICENCES, inputs_licence, known, strictest
from cyclepref.builder.dataset.reader import head_of
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.specs import ModelSpec


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"inputs": "cc0-1.0", "a": "MIT"}, ("mit", "mit")),
        ({"inputs": "cc-by-4.0", "a": "Apache-2.0"}, ("cc-by-4.0", "cc-by-4.0")),
        ({"inputs": "mit", "a": "CreativeML OpenRAIL-M", "b": "BSD-3-Clause"}, ("creativeml-openrail-m",) * 2),
        ({"inputs": "cc-by-nc-4.0", "a": "Llama 2"}, ("cc-by-nc-4.0", "cc-by-nc-4.0")),
        ({"inputs": "mit", "a": "Stability AI Community; gated"}, ("other", "stabilityai-ai-community")),
        ({"inputs": "mit", "a": "Gemma; gated"}, ("gemma", "gemma")),
    ],
)
def test_the_strictest_licence_is_that_of_the_dataset(given, expected):
    assert strictest(given) == (*expected, [])
    assert strictest(dict(reversed(given.items()))) == (*expected, [])


@pytest.mark.parametrize("text", [None, "", "see card (MIT and Qwen)", "my own"])
def test_one_unknown_licence_makes_the_whole_unknown(text):
    assert strictest({"inputs": "mit", "b": "mit", "model": text}) == ("unknown", "unknown", ["model"])


def test_every_licence_of_the_catalog_is_known_or_says_to_see_the_card():
    texts = {spec.licence for spec in CATALOG.values() if isinstance(spec, ModelSpec)}
    assert {text for text in texts if known(text) is None} == {"see card (MIT and Qwen)"}


def test_inputs_of_our_own_making_are_under_our_licence_and_others_unknown_until_said():
    assert inputs_licence(None, "shapeworld") == "mit"
    assert inputs_licence(None, "images") is None
    assert inputs_licence("cc-by-4.0", "images") == "cc-by-4.0"
    with pytest.raises(RecipeError, match=r"unknown licence 'CC BY 4' \(did you mean 'cc-by-4\.0'"):
        inputs_licence("CC BY 4", "images")


def test_licences_are_written_as_the_hub_writes_them():
    assert all(name == name.lower() and " " not in name for name in LICENCES)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        (("cc-by-4.0", "cc-by-4.0"), {"license": "cc-by-4.0"}),
        (("unknown", "unknown"), {"license": "unknown"}),
        (("other", "qwen-research"), {"license": "other", "license_name": "qwen-research"}),
    ],
)
def test_a_licence_that_the_hub_has_no_id_for_is_named_in_the_head(licence, expected):
    head = head_of(metadata({"train": {"inputs": 1, "pairs": 1}}, ("rankings",), "edition", licence))
    assert {name: value for name, value in head.items() if name.startswith("license")} == expected
