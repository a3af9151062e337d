"""Two families, a captioner and a pipeline as a user adds them, end to end through Ray in both roles."""

import pytest
from test_families_captioners import IMAGES
from tiny_captioners import save as save_captioner
from tiny_painters import save as save_painter

from cyclepref.builder.build import build
from cyclepref.builder.run.store import Store
from cyclepref.schemas.recipe import parse_recipe


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_build_with_models_from_folders_counts_what_was_cut(tmp_path):
    (tmp_path / "photos").mkdir()
    for at, image in enumerate(IMAGES[:3]):
        image.save(tmp_path / "photos" / f"{at}.png")
    llava, chatty = save_captioner("llava_next_mistral", tmp_path / "llava")
    qwen, _ = save_captioner("qwen2_vl", tmp_path / "qwen")
    flux, painted = save_painter("flux", tmp_path / "flux")
    recipe = parse_recipe(
        {
            "name": "families", "cycle": "i2t2i", "inputs": {"source": "images", "path": str(tmp_path / "photos")},
            "forward": [
                {"model": llava, "name": "llava", "settings": {**chatty, "max_new_tokens": 8, "num_gpus": 0}},
                {"model": qwen, "name": "qwen", "settings": {"max_new_tokens": 2, "num_gpus": 0}},
            ],
            "backward": {"model": flux, "name": "flux", "settings": {**painted, "width": 64, "height": 64}},
            "metric": {"metric": "lpips-shapeworld"}, "max_failure_rate": 0.9,
            "pairs": {"min_margin": 0.0, "poor_chosen": None},
        }
    )  # fmt: skip
    report = build(recipe, tmp_path / "out")
    for stage in ("candidates", "reconstructions", "scores"):
        for count in report["counts"][stage].values():
            assert count["wanted"] == count["ok"] + count["failed"]
            assert count["ok"]
    rows = Store(tmp_path / "out").rows("generations").to_pylist()
    truncated = report["counts"]["truncated"]
    for role in ("candidates", "reconstructions"):
        for model, count in truncated[role].items():
            mine = [row for row in rows if row["model"] == model]
            assert count["truncated"] == sum(row["truncated"] for row in mine)
            for name in {name for row in mine for name in row["cut_by"]}:
                assert count["cut_by"][name] == sum(name in row["cut_by"] for row in mine)
    assert truncated["candidates"]["qwen"]["truncated"] > 0
    assert set(truncated["reconstructions"]) == {"flux"}
