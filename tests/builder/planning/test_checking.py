"""`check` finds every fault of a recipe at once, each with its way out, and changes nothing."""

import json
import shutil
from pathlib import Path

import pytest

from cyclepref.builder.catalog.catalog import WEIGHTS
from cyclepref.builder.planning.check import check_recipe
from cyclepref.builder.planning.hardware import hardware
from cyclepref.schemas.recipe import RecipeError

GOOD = """\
name: mine
cycle: i2t2i
inputs: {source: shapeworld, limit: 4}
forward:
  - shapeworld-blip
  - shapeworld-llava
backward: shapeworld-sd3
metric: lpips-shapeworld
pairs: {min_margin: 0.1}
"""


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def checked(tmp_path):
    """Checks a recipe of this text."""

    def check(text: str, *gpus):
        (tmp_path / "recipe.yaml").write_text(text)
        return check_recipe(tmp_path / "recipe.yaml", None, hardware(*gpus) if gpus else None)

    return check


def test_a_recipe_that_is_fine_has_no_faults_and_its_inputs_are_counted(checked):
    found = checked(GOOD, 1, "H100")
    assert found.faults == []
    assert found.inputs == 4
    assert found.models == ["shapeworld-blip", "shapeworld-llava", "shapeworld-sd3", "lpips-shapeworld"]


def test_faults_of_every_sort_are_told_at_once(checked, tmp_path):
    shutil.copytree(WEIGHTS / "blip", tmp_path / "cut")
    weights = next((tmp_path / "cut").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    found = checked(
        f"""\
name: mine
cycle: i2t2i
sed: 3
inputs: {{source: images, path: no/photos}}
forward:
  - shapeworld-bilp
  - {tmp_path}/cut
  - {{model: openai-endpoint, settings: {{base_url: "http://x/v1", served_model: m, api_key_env: NO_SUCH_KEY}}}}
  - {{model: shapeworld-blip, name: four, settings: {{quantization_config: {{quant_method: quanto}}}}}}
  - {{model: llava-1.6-34b, settings: {{revision: {"c0ffee" + "0" * 34}, num_gpus: 1}}}}
backward: {{model: shapeworld-sd3, settings: {{num_gpus: 9}}}}
metric: lpips-shapeworld
pairs: {{min_margin: -1}}
""",
        2,
        "L4",
    )
    told = "\n".join(found.faults)
    for part in (
        "line 3, column 1: sed: unknown setting (did you mean 'seed'?",
        "inputs.path: no/photos: no such folder",
        "forward.0.model: unknown captioner 'shapeworld-bilp' (did you mean 'shapeworld-blip'?)",
        "pairs.min_margin: must be 0 or more, got -1",
        ": download or copy the model again",
        "the environment variable NO_SUCH_KEY (api_key_env) is empty or not set: export it",
        "the package optimum-quanto is missing: pip install optimum-quanto",
        "llava-1.6-34b: llava-hf/llava-v1.6-34b-hf at revision c0ffee000000 is not there in the cache",
        "llava-1.6-34b: needs about 83.4 GB of each GPU in bfloat16 (an estimate), and one L4 has 24: give it 4",
        "shapeworld-sd3",
        "needs 9 GPUs on one node",
    ):
        assert part in told, told
    assert len(found.faults) == len(set(found.faults))
    assert found.inputs is None


def test_two_names_of_one_model_are_a_fault(checked):
    found = checked(GOOD.replace("  - shapeworld-llava", "  - {model: shapeworld-blip, name: again}"))
    assert found.faults == [
        "again: is shapeworld-blip with equal settings: drop one of them, or raise `samples` of one"
    ]


def test_a_metric_that_needs_trust_is_told_once_and_with_its_place(checked):
    found = checked(GOOD.replace("lpips-shapeworld", "dreamsim-ensemble"))
    [fault] = [fault for fault in found.faults if "trust_remote_code" in fault]
    assert fault.startswith("line 8, column 1: metric: dreamsim-ensemble")


def test_inputs_that_cannot_be_read_are_a_fault(checked, tmp_path):
    (tmp_path / "prompts.parquet").write_bytes(b"no parquet")
    inputs = f"inputs: {{source: parquet, path: {tmp_path}/prompts.parquet, column: text}}"
    [fault] = checked(GOOD.replace("inputs: {source: shapeworld, limit: 4}", inputs)).faults
    assert "prompts.parquet" in fault
    (tmp_path / "photos").mkdir()
    inputs = f"inputs: {{source: images, path: {tmp_path}/photos}}"
    [fault] = checked(GOOD.replace("inputs: {source: shapeworld, limit: 4}", inputs)).faults
    assert "photos" in fault or "empty" in fault


def test_what_is_no_recipe_is_one_error(checked, tmp_path):
    with pytest.raises(RecipeError, match="must hold a mapping of settings, got a text"):
        checked("just words")
    with pytest.raises(RecipeError, match="no recipe at"):
        check_recipe(tmp_path / "none.yaml")


def test_the_command_prints_for_people_and_programs_and_its_status_tells(tmp_path, capsys):
    from cyclepref.jobs.cli import main

    Path(tmp_path, "r.yaml").write_text(GOOD)
    assert main(["check", f"{tmp_path}/r.yaml"]) == 0
    assert "fine: 4 inputs, 4 models and metrics" in capsys.readouterr().out
    assert main(["check", f"{tmp_path}/r.yaml", "--set", "seed=x", "--set", "inputs.limit=0", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    assert len(told["faults"]) == 2
    assert main(["check", f"{tmp_path}/r.yaml", "--set", "seed=x"]) == 1
    assert "1 thing to mend" in capsys.readouterr().out
    assert main(["check", f"{tmp_path}/r.yaml", "--gpu-type", "H10"]) == 1
    assert "unknown GPU type 'H10'" in capsys.readouterr().err
