"""The settings of metrics that hold a candidate itself against its input; no reconstruction is compared."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.specs import CaptionerSpec, MetricSpec, ModelSpec, PainterSpec


class DirectSpec(MetricSpec):
    """A metric that holds the candidate itself against its input, by a model of its own; no reconstruction is needed.

    `model` is that model's spec. In the catalog it is None: a recipe names one in the metric's settings, or its
    backward model is used.
    """

    compares: ClassVar[Literal["reconstruction", "candidate"]] = "candidate"
    # The modality that is read by `model` names its kind, as in `cyclepref.schemas.cycle.READS`.
    reads: ClassVar[Modality]
    model: ModelSpec | None = None

    def identity(self) -> dict[str, Any]:
        """See `Spec.identity`; the weights are `model`'s."""
        unused = ("repo", "revision", "sha256", "net", "branch", "trust_remote_code")
        own = {name: value for name, value in super().identity().items() if name not in unused}
        return {**own, "model": self.model.identity() if self.model else None}


class LikelihoodSpec(DirectSpec):
    """How likely a captioner finds the tokens of the input text, given the candidate image: the mean of their
    log-probabilities or, without `logarithm`, of their probabilities."""

    kind: Literal["likelihood"] = "likelihood"
    reads: ClassVar[Modality] = "image"
    model: CaptionerSpec | None = None
    logarithm: bool = True


class DenoisingSpec(DirectSpec):
    """How well a text-to-image pipeline denoises the input image, given the candidate text.

    `draws` is the number of noise levels, spread evenly over the schedule, each with a noise of its own. `seed` and the
    input alone decide the noise, so all candidates of an input share it.
    """

    kind: Literal["denoising-loss"] = "denoising-loss"
    reads: ClassVar[Modality] = "text"
    model: PainterSpec | None = None
    draws: Annotated[int, Field(ge=1)] = 8
    seed: int = 0
