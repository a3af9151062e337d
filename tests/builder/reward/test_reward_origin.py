"""What a reward model's card says to the Hub: licence, base model, datasets."""

import pytest
import yaml

from cyclepref.builder.dataset.licences import LICENCES
from cyclepref.builder.reward.origin import Origin, about_training, head
from cyclepref.builder.reward.released.convert import KINDS


def card(folder, **content):
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(content)}---\n# It\n")
    return str(folder)


def said(origin: Origin) -> dict:
    return yaml.safe_load(head(origin, "preference").strip("-\n"))


@pytest.mark.parametrize(
    ("model", "dataset", "licence"),
    [
        ({"license": "mit"}, {"license": "apache-2.0"}, {"license": "mit"}),
        ({"license": "mit"}, {"license": "cc-by-nc-4.0"}, {"license": "cc-by-nc-4.0"}),
        (
            {"license": "other", "license_name": "qwen-research"},
            {"license": "mit"},
            {"license": "other", "license_name": "qwen-research"},
        ),
        ({"license": "mit"}, {}, {"license": "unknown"}),
        ({"license": ["mit"]}, {"license": "mit"}, {"license": "unknown"}),
        ({"license": "my-own"}, {"license": "mit"}, {"license": "unknown"}),
    ],
)
def test_the_licence_is_the_strictest_of_what_it_was_made_of(tmp_path, model, dataset, licence):
    start, data = card(tmp_path / "start", **model), tmp_path / "run"
    card(data / "dataset", **dataset)
    found = said(about_training({"start": start, "datasets": [str(data)]}))
    assert {name: value for name, value in found.items() if name.startswith("license")} == licence
    assert "base_model" not in found
    assert "datasets" not in found


def test_models_and_datasets_on_the_hub_are_named(tmp_path):
    folder = card(tmp_path / "data", license="mit")
    places = [folder, "cyclepref:org/pairs"]
    origin = about_training({"start": "openai/clip-vit-large-patch14", "datasets": places})
    found = said(origin)
    assert found["base_model"] == "openai/clip-vit-large-patch14"
    assert found["datasets"] == ["org/pairs"]
    assert found["license"] == "unknown"  # tests have no network, and the dataset's card is not here
    assert origin.unknown == ["cyclepref:org/pairs"]
    embedded = about_training({"start": "shapeworld/blip", "datasets": [folder]})
    assert said(embedded)["license"] == "mit"
    assert embedded.base_model is None


def test_released_models_have_a_licence_that_the_hub_knows():
    assert all(kind.licence in LICENCES and kind.datasets for kind in KINDS.values())
