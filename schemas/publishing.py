"""What a build publishes, and how: the sections of a recipe that no model depends on."""

from typing import Annotated, Any

from pydantic import Field

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
