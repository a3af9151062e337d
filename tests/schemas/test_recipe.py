import pytest
import yaml

from schemas.recipe import RecipeError, load_recipe, parse_recipe

GOOD = {
    "name": "mine",
    "cycle": "i2t2i",
    "inputs": {"source": "images", "path": "photos"},
    "forward": [{"model": "a"}, {"model": "a", "name": "b"}],
    "backward": {"model": "c"},
    "metric": {"metric": "lpips-alex"},
    "pairs": {"min_margin": 0.005, "poor_chosen": None},
}


def test_a_good_recipe_loads_and_names_its_models():
    recipe = parse_recipe(GOOD)
    assert [choice.label for choice in recipe.forward] == ["a", "b"]
    assert recipe.shape.forward_kind == "captioner"
    assert recipe.shape.backward_kind == "text-to-image"


def test_a_recipe_survives_being_written_and_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(parse_recipe(GOOD).model_dump(mode="json")))
    assert load_recipe(path) == parse_recipe(GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seedd": 1}, r"seedd: unknown key \(did you mean 'seed'\?\); known keys: name, cycle"),
        ({"forward": [{"model": "a", "sample": 2}]}, r"forward.0.sample: unknown key \(did you mean 'samples'"),
        ({"inputs": {"source": "images", "path": "x", "colum": 1}}, "colum: unknown key; known keys: source, path"),
        ({"inputs": {"source": "imgs", "path": "x"}}, "'images', 'prompts', 'parquet', 'dataset', 'shapeworld'"),
        ({"inputs": {"source": "dci", "path": "x", "splits": "train"}}, r"splits: unknown key \(did you mean 'split'"),
        ({"inputs": {"source": "tsv", "path": "x", "colum": "P"}}, r"colum: unknown key \(did you mean 'column'"),
        ({"inputs": {"source": "tsv", "path": "x", "where": {"Category": []}}}, "where.Category: List should have at"),
        ({"inputs": {"source": "compositional"}}, "kinds: Field required"),
        ({"inputs": {"source": "compositional", "kinds": ["color"]}}, "should be 'colour', 'count', 'background', 'co"),
        ({"inputs": {"source": "compositional", "kinds": ["count"], "heldout": 1}}, "did you mean 'held_out'"),
        ({"cycle": "i2i"}, "cycle: Input should be 'i2t2i' or 't2i2t' .got 'i2i'."),
        ({"forward": []}, "forward: List should have at least 1 item"),
        ({"forward": [{"model": "a"}, {"model": "a"}]}, "lists a more than once: give each use a `name`"),
        ({"splits": {"train": 0.5}}, r"train \+ validation \+ test must be 1, got 0.6"),
        ({"pairs": {"min_margin": -1, "poor_chosen": None}}, "min_margin: Input should be greater than or equal to 0"),
        ({"forward": [{"model": "a"}]}, "one candidate for each input: a pair needs two models or samples"),
        ({"pairs": {"min_margin": float("inf"), "poor_chosen": None}}, "min_margin: Input should be a finite number"),
        ({"pairs": {"min_margin": 0.1}}, "pairs.poor_chosen: Field required"),
        ({"name": "../up"}, "name: String should match pattern"),
    ],
)
def test_a_wrong_recipe_is_explained_with_place_value_and_rule(change, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**GOOD, **change})


def test_all_problems_are_told_at_once():
    with pytest.raises(RecipeError, match=r"(?s)cycle.*forward"):
        parse_recipe({**GOOD, "cycle": "x", "forward": []})


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "is not YAML"), ("- 1", "must hold a mapping"), (None, "no recipe at")]
)
def test_a_file_that_is_no_recipe_is_explained(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)
