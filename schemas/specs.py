"""What a model or a metric is: everything that decides its output, apart from how it is run.

The fields marked `execution` (batch size, devices, workers) may change without changing a row; all others enter
the fingerprint, and through it every id that depends on the model.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from schemas.cycle import Modality

# Version of our own pre- and post-processing (resizing, cleaning of captions); bump it when an output changes.
PROCESSING = 1

Execution = Field(json_schema_extra={"execution": True})


def _whole_above_one(num_gpus: float) -> float:
    if num_gpus > 1 and not num_gpus.is_integer():
        raise ValueError(
            f"above 1 it must be a whole number, since Ray gives out parts of one GPU only; got {num_gpus:g}"
        )
    return num_gpus


class Spec(BaseModel):
    """Common base: a name, where the weights are, and how to run them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Execution]
    batch_size: Annotated[int, Execution, Field(ge=1)] = 16
    num_gpus: Annotated[float, Execution, Field(ge=0), AfterValidator(_whole_above_one)] = 1
    num_cpus: Annotated[int, Execution, Field(ge=1)] = 1
    about: Annotated[str, Execution] = ""

    def identity(self) -> dict[str, Any]:
        """The settings that change an output, as plain JSON values."""
        execution = [k for k, f in type(self).model_fields.items() if (f.json_schema_extra or {}).get("execution")]
        return {**self.model_dump(mode="json", exclude=set(execution)), "processing": PROCESSING}


class ModelSpec(Spec):
    """A model that generates: `repo` is a Hub id ("org/name") or a local folder in the Hub's layout."""

    repo: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False


class CaptionerSpec(ModelSpec):
    """An image-to-text model, loaded with AutoModelForImageTextToText and AutoProcessor.

    `prompt_style`: "chat" puts `prompt` and the image through the processor's chat template, "prefix" gives the
    text as it is, "none" gives the image alone. `temperature` 0 is greedy decoding; above 0 tokens are sampled
    from the `top_p` nucleus with one generator per sample.
    """

    kind: Literal["captioner"] = "captioner"
    prompt_style: Literal["chat", "prefix", "none"] = "chat"
    prompt: str = ""
    max_new_tokens: Annotated[int, Field(ge=1)] = 77
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def greedy(self) -> bool:
        """Greedy decoding gives one caption, whatever the seed."""
        return self.temperature == 0


class PainterSpec(ModelSpec):
    """A text-to-image pipeline, loaded with DiffusionPipeline. Sizes are in pixels."""

    kind: Literal["text-to-image"] = "text-to-image"
    steps: Annotated[int, Field(ge=1)]
    guidance: Annotated[float, Field(ge=0)]
    width: Annotated[int, Field(ge=8)]
    height: Annotated[int, Field(ge=8)]
    negative_prompt: str | None = None
    max_sequence_length: Annotated[int, Field(ge=1)] | None = None
    greedy: ClassVar[bool] = False


class MetricSpec(Spec):
    """A similarity between an input and a reconstruction.

    `higher_is_better` is the metric's direction. Its values lie within [`low`, `high`], which are constants of the
    metric and not of a run. `repo`: a Hub id or a local folder; None stands for what the metric's package brings or
    downloads. `sha256`: what model.safetensors must be, wherever it comes from. `net` is LPIPS's backbone, `branch`
    DreamSim's model. An "embedding" compares images by any vision backbone, "sbert" texts by any
    sentence-transformers model.
    """

    kind: Literal["sbert", "lpips", "dreamsim", "embedding"]
    modality: Modality
    higher_is_better: bool
    low: Annotated[float, Execution]
    high: Annotated[float, Execution]
    repo: str | None = None
    revision: str | None = None
    sha256: str | None = None
    net: Literal["alex", "vgg", "squeeze"] | None = None
    branch: Literal["ensemble", "dino_vitb16", "dinov2_vitb14", "clip_vitb32", "open_clip_vitb32"] | None = None
    trust_remote_code: bool = False
