"""`source: shapeworld`: scenes of the embedded world."""

from collections.abc import Iterator
from dataclasses import dataclass

from cyclepref.builder.shapeworld import grammar, render, scenes
from cyclepref.builder.sources.source import Items
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import ShapeWorldInputs


@dataclass(frozen=True)
class ShapeWorld:
    """Held-out scenes of the embedded world; an item is named by its scene's canonical description."""

    spec: ShapeWorldInputs
    modality: Modality

    @property
    def place(self) -> str:
        """The world and the seed of its draws."""
        return f"shapeworld:{self.spec.seed}"

    def items(self) -> Items:
        """`limit` distinct scenes after the first `offset`, drawn by `seed`."""
        try:
            drawn = scenes.sample_scenes(self.spec.offset + self.spec.limit, seed=self.spec.seed, held_out=True)
        except ValueError as error:
            raise RecipeError(f"inputs: {error}") from error
        return [(grammar.describe(scene), str(self.spec.seed)) for scene in drawn[self.spec.offset :]]

    def read(self, names: list[str]) -> Iterator[bytes | str]:
        """The descriptions themselves, or their renders."""
        from cyclepref.builder.common.images import encode

        for name in names:
            if self.modality == "text":
                yield name
            else:
                seed = int(digest("render", self.spec.seed, name)[:8], 16)
                yield encode(render.render(grammar.parse(name), seed))
