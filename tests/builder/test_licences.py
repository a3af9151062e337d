"""The strictest licence wins, and what is not known is said."""

import pytest

from builder.licences import LICENCES, inputs_licence, known, strictest
from builder.models.catalog import CATALOG
from schemas.recipe import RecipeError
from schemas.specs import ModelSpec


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
    with pytest.raises(RecipeError, match=r"unknown licence 'CC BY 4': choose from .*cc-by-4\.0"):
        inputs_licence("CC BY 4", "images")


def test_licences_are_written_as_the_hub_writes_them():
    assert all(name == name.lower() and " " not in name for name in LICENCES)
