import pytest
from PIL import Image

from cyclepref.builder.shapeworld import render, scenes


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Four pictures of different sizes and aspects, all but one in colour."""
    drawn = [render.render(scene, 0) for scene in scenes.sample_scenes(3, seed=4, held_out=True)]
    return [drawn[0], drawn[1].resize((90, 60)), drawn[2].resize((48, 80)), Image.new("RGB", (64, 64), "black")]
