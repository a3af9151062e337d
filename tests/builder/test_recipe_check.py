"""What is wrong with a recipe is told at once: each fault with its place, the value, the rule and the way out."""

import re

import pytest

from cyclepref.builder.recipe_check import read_recipe
from cyclepref.schemas.recipe import RecipeError

GOOD = """\
name: mine
cycle: i2t2i
inputs: {source: shapeworld, limit: 4}
forward:
  - shapeworld-blip
  - {model: shapeworld-llava}
backward: shapeworld-sd3
metric: lpips-shapeworld
pairs: {min_margin: 0.1}
"""
# A line of the good recipe, what stands in its place, and what the error says (of which no part may be missing).
WRONG = [
    ("name: mine", "name: ../up", ["line 1, column 1: name: must begin with a letter", "got '../up'"]),
    ("name: mine", "name: 12", ["line 1, column 1: name: must be a text, got 12: put it in quotes"]),
    ("name: mine", "name: no", ["name: must be a text, got false (YAML reads yes, no", "quotes"]),
    ("name: mine", "name: 2026-01-02", ["name: must be a text, got 2026-01-02: put it in quotes"]),
    ("name: mine", "", ["name: is missing: what the run is called"]),
    ("name: mine", "nmae: mine", ["name: is missing", "line 1, column 1: nmae: unknown setting (did you mean 'name'?"]),
    ("cycle: i2t2i", "cycle: i2t", ["line 2, column 1: cycle: must be i2t2i or t2i2t, got 'i2t'", "or 'i2t2i'"]),
    ("cycle: i2t2i", "cycle: i2t2i\nseed: 1.5", ["line 3, column 1: seed: must be a whole number, got 1.5"]),
    ("cycle: i2t2i", "cycle: i2t2i\nseed: x", ["seed: must be a whole number, got 'x'"]),
    ("cycle: i2t2i", "cycle: i2t2i\nmax_failure_rate: 5", ["max_failure_rate: must be 1 or less, got 5"]),
    ("inputs", "inputs: photos", ["line 3, column 1: inputs: must be settings", "got 'photos'"]),
    ("inputs", "inputs: {path: photos}", ["inputs: must be settings with a source, got settings (path)"]),
    ("inputs", "inputs: {source: folder, path: x}", ["inputs: source must be images, prompts", "got 'folder'"]),
    ("inputs", "inputs: {source: image, path: x}", ["got 'image' (did you mean 'images'?)"]),
    ("inputs", "inputs: {source: images}", ["line 3, column 1: inputs.path: is missing"]),
    ("inputs", "inputs: {source: images, path: no/photos}", ["column 26: inputs.path: no/photos: no such folder (loo"]),
    ("inputs", "inputs: {source: images, path: pyproject.toml}", ["inputs.path: pyproject.toml is a file, and must"]),
    ("inputs", "inputs: {source: images, path: tests, limit: 0}", ["column 39: inputs.limit: must be 1 or more, got"]),
    ("inputs", "inputs: {source: prompts, path: x.txt}", ["inputs.source: 'prompts' gives texts, and this cycle star"]),
    ("inputs", "inputs: {source: parquet, path: x}", ["inputs.column: is missing", "inputs.path"]),
    ("inputs", "inputs: {source: dci, path: pyproject.toml}", ["inputs.path: pyproject.toml is a file, and must be a"]),
    ("  - shapeworld-blip", "  - shapeworld-bilp", ["line 5, column 5: forward.0.model: unknown captioner 'shapeworld-",
                                                  "did you mean 'shapeworld-blip'", "--kind captioner"]),
    ("  - shapeworld-blip", "  - sdxl", ["forward.0.model: sdxl is a text-to-image model, but this place needs a cap"]),
    ("  - shapeworld-blip", "  - sbert", ["forward.0.model: sbert is a metric, but this place needs a captioner"]),
    ("  - shapeworld-blip", "  - ./no/model", ["line 5, column 5: forward.0.model: no folder ./no/model (looked for"]),
    ("  - shapeworld-blip", "  - 7", ["line 5, column 5: forward.0: must be settings, name: value (there are model"]),
    ("  - shapeworld-blip", "  - shapeworld-llava", ["line 6, column 5: forward.1: forward lists shapeworld-llava more",
                                                   "give each use a `name`"]),
    ("  - shapeworld-blip", "  - {model: blip-base, samples: 2}", ["column 24: forward.0.samples: is 2, but greedy"]),
    ("  - shapeworld-blip", "  - {model: blip-base, sample: 2}", ["forward.0.sample: unknown setting", "'samples'"]),
    ("  - shapeworld-blip", "  - {model: blip-base, settings: {temprature: 1}}", ["line 5, column 35: forward.0.setting"
                                                                              "s.temprature", "mean 'temperature'"]),
    ("  - shapeworld-blip", "  - {model: blip-base, settings: {top_p: 2}}", ["settings.top_p: must be 1 or less, got"]),
    ("  - shapeworld-blip", "  - {model: blip-base, settings: {num_gpus: 1.5}}", ["whole number", "got 1.5"]),
    ("  - shapeworld-blip", "  - {model: blip-base, settings: {kind: x}}", ["settings.kind: belongs to the model"]),
    ("  - shapeworld-blip", "  - {model: blip-base, settings: 3}", ["forward.0.settings: must be settings, name: v"]),
    ("  - shapeworld-blip", "  - openai-endpoint", ["forward.0.settings: an endpoint needs base_url and served_model"]),
    ("backward", "backward: [shapeworld-sd3]", ["line 7, column 1: backward: must be settings", "got a list of 1"]),
    ("backward", "backward: org/painter", ["backward.settings.steps: is missing", "backward.settings.guidance"]),
    ("backward", "backward: shapeworld-sd4", ["or 'shapeworld-sd3'", "--kind text-to-image"]),
    ("backward", "backward: {model: shapeworld-sd3, name: shapeworld-blip}", ["in forward and in backward"]),
    ("metric", "metric: lpips-shapewrld", ["line 8, column 1: metric.metric: unknown metric", "'lpips-shapeworld'"]),
    ("metric", "metric: sbert", ["metric.metric: sbert compares texts, but this cycle needs a metric for images"]),
    ("metric", "metric: sdxl", ["metric.metric: sdxl is a text-to-image model", "--kind metric"]),
    ("metric", "metric: dreamsim-ensemble", ["metric: dreamsim-ensemble: DreamSim's ensemble downloads", "trust_remo"]),
    ("metric", "metric: {metric: lpips-alex, settings: {low: -1}}", ["metric.settings.low: belongs to the model"]),
    ("metric", "metrics: [sbert, lpips-alex]", ["metrics.0.metric: sbert compares", "pairs need `by`"]),
    ("metric", "", ["a recipe has either metric or a list of metrics, got none"]),
    ("pairs", "pairs: {min_margin: -1}", ["line 9, column 9: pairs.min_margin: must be 0 or more, got -1"]),
    ("pairs", "pairs: {min_margin: .nan}", ["pairs.min_margin: must be a finite number, got nan"]),
    ("pairs", "pairs: {min_margin: small}", ["pairs.min_margin: must be a number, got 'small'"]),
    ("pairs", "pairs:", ["line 9, column 1: pairs: must be settings", "got null"]),
    ("pairs", "pairs: {poor_choosen: 1}", ["pairs.min_margin: is missing: the least difference", "'poor_chosen'"]),
    ("pairs", "pairs: {min_margin: 0, by: x}", ["column 24: pairs.by: pairs name x, which metrics do not list"]),
    ("pairs", "pairs: {min_margin: 0}\nsplits: {train: 1}", ["line 10, column 1: splits: train + validation", "1.1"]),
    ("pairs", "pairs: {min_margin: 0}\ndataset: {inputs_licence: cc-by-4}", ["dataset.inputs_licence: unknown licence",
                                                                           "did you mean 'cc-by-4.0'"]),
    ("pairs", "pairs: {min_margin: 0}\nsafety: {model: a/b}", ["safety.label: is missing", "safety.threshold"]),
    ("pairs", "pairs: {min_margin: 0}\nsafety: {model: a/b, label: x, threshold: 0.5, settings: {batch: 1}}",
     ["safety.settings.batch: unknown setting (did you mean 'batch_size'?)"]),
    ("pairs", "pairs: {min_margin: 0, min_margin: 1}", ["line 9, column 24: pairs.min_margin: is there twice (first"]),
    ("pairs", "pairs: {min_margin: 0}\nname: again", ["line 10, column 1: name: is there twice (first in line 1): ke"]),
    ("pairs", "pairs: {min_margin: 0}\n3: x", ["3: has a name that is not a text"]),
]  # fmt: skip
# Words of the library that checks types, and of the language.
OURS_NOT = re.compile(r"Input |should be|instance of|discriminat|pydantic|NoneType|\{'|Spec\b|expected tags|Choice\b")


def write(tmp_path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def changed(line: str, by: str) -> str:
    [found] = [each for each in GOOD.splitlines() if each.startswith(line)]
    return GOOD.replace(f"{found}\n", f"{by}\n" if by else "", 1)


def test_the_recipe_that_the_others_are_made_of_is_right(tmp_path):
    recipe = read_recipe(write(tmp_path, GOOD))
    assert [choice.label for choice in recipe.forward] == ["shapeworld-blip", "shapeworld-llava"]
    assert recipe.pairs.poor_chosen is None


@pytest.mark.parametrize(("line", "by", "parts"), WRONG, ids=[by or f"no {line}" for line, by, _ in WRONG])
def test_a_wrong_recipe_is_told_with_place_value_rule_and_way_out(tmp_path, line, by, parts):
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, changed(line, by)))
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert not OURS_NOT.search(message), message
    assert all(re.match(r"  - line \d+, column \d+: ", each) for each in message.splitlines()[1:]), message
    assert max(map(len, message.splitlines())) < 450, message


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path):
    text = """\
name: ../x
cycle: i2t2i
cylce: t2i2t
inputs: {source: images, path: pyproject.toml}
forward:
  - shapeworld-bilp
  - {model: shapeworld-llava, sample: 2, settings: {temprature: 1.0, max_new_tokens: 0}}
  - {model: sdxl}
  - {model: shapeworld-llava}
backward: {model: shapeworld-sd3, name: yes}
metric: {metric: sbert}
pairs: {min_margin: 1}
pairs: {min_margin: -1, scale: rank, by: x, min_margin_sd: 1}
splits: {train: 0.5}
"""
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, text))
    told = re.findall(r"  - line (\d+), column (\d+): ([\w.]+): ", str(caught.value))
    assert [name for *_, name in told] == [
        "name", "cylce", "inputs.path", "forward.0.model", "forward.1.sample", "forward.1.settings.temprature",
        "forward.1.settings.max_new_tokens", "forward.2.model", "backward.name", "metric.metric", "pairs",
        "pairs.min_margin", "pairs.scale", "pairs.by", "pairs.min_margin_sd", "pairs.min_margin_sd", "splits",
    ]  # fmt: skip
    places = [(int(line), int(column)) for line, column, _ in told]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", r"is not YAML: line 1, column 5: while parsing a flow node"),
        (b"a: b: c", r"is not YAML: line 1, column 5: mapping values are not allowed here"),
        (b"\ta: 1", r"is not YAML: line 1, column 1: while scanning for the next token"),
        (b"name: \xff", r"is not UTF-8 text \(at byte 6\): save it as UTF-8"),
        (b"name: \x07", r"is not YAML: unacceptable character"),
        (b"a: !!python/object:os.system {}", r"is not YAML: line 1, column 4: could not determine a constructor"),
        (b"a: 2026-99-99", r"is not YAML: month must be in 1..12"),
        (b"", "must hold a mapping of settings, got nothing"),
        (b"- 1", "must hold a mapping of settings, got a list"),
        (b"just words", "must hold a mapping of settings, got a text"),
        (b"a: " + b"[" * 3000 + b"]" * 3000, "is not YAML: it is nested too deeply"),
        (b"a: &a [x]\nb: &b {c: *b}", "is not YAML: its aliases make more than 100,000 settings"),
        (b"\n".join(b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9) if n else b"x") for n in range(9)),
         "is not YAML: its aliases make more than 100,000 settings"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_settings_says_where_it_goes_wrong(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read_recipe(path)


def test_names_and_paths_in_a_recipe_are_shown_and_steer_nothing(tmp_path):
    text = changed("inputs", 'inputs: {source: images, path: "a\\n  - line 1, column 1: all is well\\e[2J"}')
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, text + '"b\\nc": 1\n'))
    assert len(str(caught.value).splitlines()) == 3
    assert "\x1b" not in str(caught.value)


def test_settings_that_a_section_takes_from_another_are_no_repetition(tmp_path):
    text = changed("  - shapeworld-blip", "  - &first {model: shapeworld-blip, name: one}")
    recipe = read_recipe(write(tmp_path, text.replace("{model: shapeworld-llava}", "{<<: *first, name: two}")))
    assert [(choice.model, choice.label) for choice in recipe.forward] == [
        ("shapeworld-blip", "one"),
        ("shapeworld-blip", "two"),
    ]


def test_a_setting_given_in_place_of_the_recipes_is_told_by_its_name(tmp_path):
    path = write(tmp_path, GOOD)
    changes = {"inputs.limit": 2, "forward.1.name": "second", "pairs.poor_chosen": 0.5, "dataset.reconstructions": True}
    recipe = read_recipe(path, changes)
    assert (recipe.inputs.limit, recipe.pairs.poor_chosen, recipe.dataset.reconstructions) == (2, 0.5, True)
    assert recipe.forward[1].label == "second"
    recipe = read_recipe(path, {"forward.0.settings.batch_size": 2, "backward.settings.steps": 3})
    assert (recipe.forward[0].settings, recipe.backward.settings) == ({"batch_size": 2}, {"steps": 3})
    wrong = {"pair.by": "x", "inputs.limit": 0, "forward.7.model": "blip-base", "name.x": 1, "forward.1.settings.a": 1}
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, wrong)
    message = str(caught.value)
    for part in (
        "--set pair.by: pair: unknown setting (did you mean 'pairs'?)",
        "--set inputs.limit: inputs.limit: must be 1 or more, got 0",
        "--set forward.7.model: forward.7.model: is not there: the list has 2 entries, numbered from 0",
        "--set name.x: name.x: is not there: the recipe has a text in its place; set that as a whole",
        "--set forward.1.settings.a: forward.1.settings.a: unknown setting; there are batch_size",
    ):
        assert part in message, message


def test_a_change_of_one_section_leaves_those_that_share_it_by_an_alias(tmp_path):
    text = changed("  - shapeworld-blip", "  - {model: shapeworld-blip, settings: &few {batch_size: 4}}")
    path = write(tmp_path, text.replace("{model: shapeworld-llava}", "{model: shapeworld-llava, settings: *few}"))
    recipe = read_recipe(path, {"forward.0.settings.batch_size": 8})
    assert [choice.settings["batch_size"] for choice in recipe.forward] == [8, 4]
