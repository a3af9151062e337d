import pytest
import yaml

from cyclepref.schemas.recipe import RecipeError, load_recipe, parse_recipe

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
        ({"seedd": 1}, r"seedd: unknown setting \(did you mean 'seed'\?\); there are name, cycle"),
        ({"forward": [{"model": "a", "sample": 2}]}, r"forward.0.sample: unknown setting \(did you mean 'samples'"),
        (
            {"inputs": {"source": "images", "path": "x", "colum": 1}},
            "inputs.colum: unknown setting; there are source, path",
        ),
        (
            {"inputs": {"source": "imgs", "path": "x"}},
            r"source must be images, prompts, .* got 'imgs' \(did you mean 'images'",
        ),
        (
            {"inputs": {"source": "dci", "path": "x", "splits": "train"}},
            r"inputs.splits: unknown setting \(did you mean 'split'",
        ),
        (
            {"inputs": {"source": "tsv", "path": "x", "colum": "P"}},
            r"inputs.colum: unknown setting \(did you mean 'column'",
        ),
        (
            {"inputs": {"source": "tsv", "path": "x", "where": {"Category": []}}},
            "inputs.where.Category: must not be empty",
        ),
        ({"inputs": {"source": "compositional"}}, "inputs.kinds: is missing"),
        (
            {"inputs": {"source": "compositional", "kinds": ["color"]}},
            r"inputs.kinds.0: must be colour, count, .* got 'color' \(did you mean 'colour'",
        ),
        ({"inputs": {"source": "compositional", "kinds": ["count"], "heldout": 1}}, "did you mean 'held_out'"),
        ({"cycle": "i2i"}, "cycle: must be i2t2i or t2i2t, got 'i2i'"),
        ({"forward": []}, "forward: must not be empty"),
        ({"forward": [{"model": "a"}, {"model": "a"}]}, "lists a more than once: give each use a `name`"),
        ({"splits": {"train": 0.5}}, r"train \+ validation \+ test must be 1, got 0.6"),
        ({"pairs": {"min_margin": -1, "poor_chosen": None}}, "pairs.min_margin: must be 0 or more, got -1"),
        ({"forward": [{"model": "a"}]}, "one candidate for each input: a pair needs two models or samples"),
        (
            {"pairs": {"min_margin": float("inf"), "poor_chosen": None}},
            "pairs.min_margin: must be a finite number, got inf",
        ),
        ({"pairs": {"poor_chosen": 0.1}}, "pairs.min_margin: is missing: the least difference of scores"),
        ({"name": "../up"}, "name: must begin with a letter or a digit, .* got '../up'"),
        (
            {"dataset": {"reconstruction": True}},
            r"reconstruction: unknown setting \(did you mean 'reconstructions'\?\)",
        ),
        ({"dataset": {"largest_group": 1}}, "largest_group: must be 2 or more, got 1"),
        ({"safety": {"model": "a/b", "label": "x"}}, "safety.threshold: is missing"),
        ({"safety": {"model": "a/b", "label": "x", "threshold": 0}}, "safety.threshold: must be above 0, got 0"),
    ],
)
def test_a_wrong_recipe_is_explained_with_place_value_and_rule(change, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**GOOD, **change})


TWO = {"metric": None, "metrics": [{"metric": "dreamsim-clip", "name": "dreamsim"}, {"metric": "lpips-alex"}]}
RULE = {"min_margin": 0.005, "poor_chosen": None}
MIXED = {**RULE, "mix": {"dreamsim": 0.7, "lpips-alex": 0.3}, "scale": "rank"}


def test_several_metrics_are_listed_and_pairs_name_one_or_mix_them():
    assert [choice.label for choice in parse_recipe(GOOD).all_metrics] == ["lpips-alex"]
    by = parse_recipe({**GOOD, **TWO, "pairs": {**RULE, "by": "dreamsim"}})
    assert [choice.label for choice in by.all_metrics] == ["dreamsim", "lpips-alex"]
    assert parse_recipe({**GOOD, **TWO, "pairs": MIXED}).pairs.mix == {"dreamsim": 0.7, "lpips-alex": 0.3}
    noisy = {"backward": {"model": "c", "samples": 2}, "pairs": {**RULE, "min_margin_sd": 2}}
    assert parse_recipe({**GOOD, **noisy}).pairs.min_margin_sd == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": [{"metric": "a"}]}, "either metric or a list of metrics, got both"),
        ({"metric": None}, "either metric or a list of metrics, got none"),
        ({"metric": None, "metrics": []}, "metrics: must not be empty"),
        ({"metric": None, "metrics": [{"metric": "a"}] * 2}, "metrics lists a more than once: give each use a `name`"),
        ({"metric": {"metric": "a", "name": "mix"}}, "a metric cannot be called 'mix'"),
        ({"metric": None, "metrics": [{"metrik": "a"}]}, r"metrics.0.metrik: unknown setting \(did you mean 'metric'"),
        (TWO, "with several metrics pairs need `by` .one of dreamsim, lpips-alex. or `mix`"),
        ({**TWO, "pairs": {**RULE, "by": "sbert"}}, "pairs name sbert, .* choose from dreamsim, lpips-alex"),
        ({"pairs": MIXED}, "pairs name dreamsim, which metrics do not list"),
        ({"pairs": {**MIXED, "by": "dreamsim"}}, "decided by one metric or by a mix, got by 'dreamsim' and mix"),
        ({"pairs": {**MIXED, "scale": None}}, "a mix needs a scale: add scale: constants .* or scale: rank"),
        ({"pairs": {**RULE, "scale": "rank"}}, "there is no mix to bring to a scale"),
        ({"pairs": {**MIXED, "mix": {"a": 0.5, "b": 0.6}}}, "weights of a mix must add up to 1, got 1.1"),
        ({"pairs": {**MIXED, "mix": {"a": 1.0, "b": 0}}}, "pairs.mix.b: must be above 0, got 0"),
        ({"pairs": {**MIXED, "mix": {"a": 1.0}}}, "pairs.mix: must have 2 entries or more"),
        ({"pairs": {**MIXED, "min_margin_sd": 1}}, "a rank is of their mean: use scale: constants, or by"),
        ({"pairs": {**RULE, "min_margin_sd": 1}}, "two reconstructions .* backward.samples is 1: raise it"),
        ({"pairs": {**RULE, "balance": 1}}, "pairs.balance: must be below 1, got 1"),
        ({"pairs": {**RULE, "within": "models"}}, "pairs.within"),
        ({"pairs": {**RULE, "within": "model", "balance": 0.5}}, "balance 0.5 has no effect: drop one"),
        ({"pairs": {**RULE, "min_margin_sd": 0}}, "min_margin_sd: must be above 0, got 0"),
    ],
)
def test_a_wrong_choice_of_what_decides_is_explained(change, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"backward": {"model": "a"}},
            "'a' is in forward and in backward, .*: give the one in backward another `name`",
        ),
        ({"metric": {"metric": "lpips-alex", "name": "b"}}, "'b' is in forward and in metric, .* one in metric"),
        ({"metric": {"metric": "c"}}, "'c' is in backward and in metric"),
        (
            {"backward": {"model": "safety"}, "safety": {"model": "x/y", "label": "nsfw", "threshold": 0.5}},
            "'safety' is in backward and in safety, .*: give the one in backward another `name`",
        ),
    ],
)
def test_one_name_in_two_roles_is_refused_since_a_run_would_remember_one_of_them(change, message):
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
