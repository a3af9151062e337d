"""What a build publishes and tells, and how: the sections of a recipe that no row depends on."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cyclepref.schemas.rules import Section


class DatasetOptions(Section):
    """What the dataset holds beside rankings and pairs, and what its card says.

    `inputs_licence` is the licence of the images or prompts that the build starts from, as an SPDX or a Hub id
    ("cc-by-4.0"; `builder/dataset/licences.py` lists the known ones); null says that it is not known.

    `group_near_duplicates` puts inputs that are nearly the same into one split (see builder/dataset/grouping.py); null
    means yes, except for the scenes of the embedded world, which all look alike. With it on, adding inputs never moves
    an input to another split; turning it on or off for an existing run moves near-duplicates. `largest_group` is the
    most inputs that may share a group; further ones get a group of their own, so that a chain of similar inputs cannot
    fill a split.

    `reconstructions` adds a third config with every reconstruction of the published candidates.
    """

    inputs_licence: str | None = None
    reconstructions: bool = False
    group_near_duplicates: bool | None = None
    largest_group: Annotated[int, Field(ge=2)] = 50


class Safety(Section):
    """An image classifier whose verdict keeps images out of what is published.

    `model` is a Hub id or a folder that transformers' AutoModelForImageClassification loads, `label` one of its
    labels, and `threshold` the probability of that label from which on an image is flagged. `settings` are those of
    `cyclepref.schemas.specs.SafetySpec` (batch_size, num_gpus, dtype, revision...).
    """

    model: str
    label: str
    threshold: Annotated[float, Field(gt=0, le=1)]
    settings: dict[str, Any] = Field(default={})


class Tracking(Section):
    """An experiment tracker that gets the figures of each stage while a build runs. Its name alone is enough:
    `tracking: trackio`.

    `project` is the tracker's project; each build is a run in it, with the name of its run directory. Figures go there
    when a stage begins and ends, and every `every_s` seconds between. Where the tracker keeps them, and the key of an
    account, is the tracker's own matter and comes from its environment variables or its login, never from a recipe.
    """

    to: Annotated[Literal["trackio", "wandb"], Field(description="trackio or wandb")]
    project: Annotated[str, Field(min_length=1)] = "cyclepref"
    every_s: Annotated[float, Field(ge=5, description="seconds, 5 or more")] = 30.0

    @model_validator(mode="before")
    @classmethod
    def of_name(cls, given: Any) -> Any:
        """Accept a plain text as the tracker's name."""
        return {"to": given} if isinstance(given, str) else given
