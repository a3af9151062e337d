"""The settings of a model or metric: those that change its output, and those that only say how to run it.

The fields marked `execution` (batch size, devices, workers) may change without changing a row; all others enter
the fingerprint, and through it every id that depends on the model.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.rules import Fault, Section, rule

# The question that CyclePrefDB asked its captioners (CycleReward, arXiv 2506.02095).
QUESTION = "Write a detailed description of the given image."

# Version of our own pre- and post-processing (resizing, cleaning of captions); bump it when an output changes.
PROCESSING = 2

# Version of how our captioners draw tokens (builder/models/sampling.py); bump it when a sampled caption changes. Rows
# of the first version, Gumbel noise on every word, have no such field.
SAMPLING = 2

Execution = Field(json_schema_extra={"execution": True})


def _whole_above_one(num_gpus: float) -> float:
    if num_gpus > 1 and not num_gpus.is_integer():
        raise ValueError(
            f"above 1 it must be a whole number, since Ray gives out parts of one GPU only; got {num_gpus:g}"
        )
    return num_gpus


class Spec(Section):
    """Common base: a name, where the weights are, and how to run them.

    `timeout_s`: seconds that one batch may take; see `patience_s`. `load_timeout_s`: seconds that a loading process may
    go without reading or writing anything (libraries, weights or a download).
    """

    name: Annotated[str, Execution]
    batch_size: Annotated[int, Execution, Field(ge=1)] = 16
    num_gpus: Annotated[float, Execution, Field(ge=0), AfterValidator(_whole_above_one)] = 1
    num_cpus: Annotated[int, Execution, Field(ge=1)] = 1
    # Generous, since a large pipeline on a CPU takes many minutes for a batch; finite, so that a stuck one is killed.
    timeout_s: Annotated[float, Execution, Field(gt=0)] = 3600
    load_timeout_s: Annotated[float, Execution, Field(gt=0)] = 900
    about: Annotated[str, Execution] = ""

    def identity(self) -> dict[str, Any]:
        """The settings that change the output, as plain JSON values."""
        execution = [k for k, f in type(self).model_fields.items() if (f.json_schema_extra or {}).get("execution")]
        return {**self.model_dump(mode="json", exclude=set(execution)), "processing": PROCESSING}

    @property
    def server(self) -> str | None:
        """The address of the server that runs the model; None if a worker process of the build runs it."""
        return None

    @property
    def patience_s(self) -> float:
        """Seconds that one batch may take before the process that runs it is killed as hung."""
        return self.timeout_s

    @property
    def load_patience_s(self) -> float:
        """Seconds that loading may take without a sign of life before the process that does it is killed as hung."""
        return self.load_timeout_s


class SampledSpec(Spec):
    """A model that generates. `resample`: how often a sample without an output (an empty caption, a black or refused
    image) is drawn again, each time with another seed."""

    # Not part of a model's identity: it does not change samples that have an output at their first draw.
    resample: Annotated[int, Execution, Field(ge=0)] = 0

    @rule("resample", "temperature")
    def _only_samples_are_drawn_again(self) -> Iterator[Fault]:
        if self.resample and self.greedy:
            told = f"resample {self.resample} has no effect at temperature 0, which has no seed: drop one"
            yield Fault(("resample",), told)

    @property
    def greedy(self) -> bool:
        """Whether the output does not depend on the seed."""
        return False


class ModelSpec(SampledSpec):
    """A model that generates: `repo` is a Hub id ("org/name") or a local folder in the Hub's layout.

    `parameters` counts all weights that are loaded. `rows_a_second` is what one host was measured to make, by type of
    GPU ({H100: 3.1}); `cyclepref plan` reckons with it. `evidence` says how well the model's family was tried: "tested"
    (our tests run its architecture with a tiny random configuration), "constructed" (the tests build and load it, but
    do not run it), "untested", or "shipped" (the package contains the weights, and the demo runs them).
    """

    repo: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = False
    parameters: Annotated[int, Execution, Field(ge=1)] | None = None
    rows_a_second: dict[str, Annotated[float, Field(gt=0)]] = Field(default={}, json_schema_extra={"execution": True})
    licence: Annotated[str, Execution] = ""
    evidence: Annotated[Literal["tested", "constructed", "untested", "shipped"], Execution] = "untested"

    @property
    def memory_gb(self) -> float | None:
        """GPU memory in GB (1e9 bytes) as an estimate: the weights in their dtype, and a fifth of that for
        activations and caches at a small batch. None where `parameters` is not known."""
        return None if self.weight_gb is None else round(1.2 * self.weight_gb, 1)

    @property
    def weight_gb(self) -> float | None:
        """The weights in their dtype in GB (1e9 bytes); None where `parameters` is not known."""
        return None if self.parameters is None else self.parameters * self._bytes_per_parameter / 1e9

    @property
    def _bytes_per_parameter(self) -> float:
        return 4 if self.dtype == "float32" else 2


class CaptionerSpec(ModelSpec):
    """An image-to-text model, loaded with AutoModelForImageTextToText and AutoProcessor.

    `prompt_style`: "chat" puts `prompt` and the image through the processor's chat template; "prefix" gives the model
    the prompt unchanged (a beginning that the caption continues, a question, or a task token); "none" gives it the
    image alone. A chat without a prompt asks CyclePrefDB's question. `temperature` 0 is greedy decoding; above 0 tokens
    are sampled from the `top_p` nucleus with one generator per sample.

    `attention` is transformers' `attn_implementation` ("sdpa", "eager", "flash_attention_2"...), None the model's
    own; `quantization_config` is transformers' dict ({quant_method: bitsandbytes, load_in_4bit: true}...). Like
    dtype, both change the numbers, so they are part of the model's identity. `device_map` is not: it spreads the
    same layers over several GPUs. None means "auto" for num_gpus above 1, and one device otherwise.
    """

    kind: Literal["captioner"] = "captioner"
    prompt_style: Literal["chat", "prefix", "none"] = "chat"
    prompt: str = ""
    max_new_tokens: Annotated[int, Field(ge=1)] = 77
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    attention: str | None = None
    quantization_config: dict[str, Any] | None = None
    device_map: Annotated[Literal["auto", "balanced", "sequential"] | None, Execution] = None

    @model_validator(mode="before")
    @classmethod
    def _ask(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("prompt_style", "chat") == "chat" and not given.get("prompt"):
            return {**given, "prompt": QUESTION}
        return given

    @rule("prompt_style", "prompt")
    def _prompt_fits_its_style(self) -> Iterator[Fault]:
        if self.prompt_style == "none" and self.prompt:
            told = f"prompt_style none never reads the prompt {self.prompt!r}: set prompt to '', or the style"
            yield Fault(("prompt_style",), told)
        if self.prompt_style == "prefix" and not self.prompt:
            yield Fault(("prompt_style",), "prompt_style prefix needs a prompt: give one, or set prompt_style to none")

    def identity(self) -> dict[str, Any]:
        """See `Spec.identity`; greedy decoding draws nothing, so its rows outlive a change of how that is done."""
        return super().identity() | ({} if self.greedy else {"sampling": SAMPLING})

    @property
    def greedy(self) -> bool:
        """Greedy decoding gives one caption, whatever the seed."""
        return self.temperature == 0

    @property
    def _bytes_per_parameter(self) -> float:
        config = self.quantization_config or {}
        if config.get("load_in_4bit") or config.get("weights") == "int4" or config.get("bits") == 4:
            return 0.5
        return 1 if config else super()._bytes_per_parameter


# Seconds of waiting that a row may add for each of its tries; a server's Retry-After may use those of all tries at
# once.
LONGEST_WAIT_S = 120


class EndpointSpec(SampledSpec):
    """A captioner that runs on a server and is called through OpenAI's chat completions protocol.

    `base_url` (http or https; often ends in /v1) is the address, `served_model` the server's name for the model. The
    client cannot see which weights a server has loaded: `revision` is free text for that, and changing it makes new
    rows. `limit_parameter` is the server's name for `max_new_tokens`; `extra_body` is added to every request as it is
    (for example `chat_template_kwargs`). `temperature` 0 is greedy decoding; above 0 the low 31 bits of the sample's
    seed are sent.

    `concurrency` is the most requests that one build has open at a time. A request that ends in a time-out (`timeout_s`
    seconds without the last byte of the answer), a broken connection, 408, 409, 429 or 5xx is repeated up to
    `max_retries` times, after 0.5 s doubling to 8 s or what Retry-After says; a row has `row_patience_s` for all of
    that. `api_key_env` is the NAME of the environment variable with the key, which is stored nowhere else; without it
    no key is sent.
    """

    # A wrong value may be a secret that was put into the wrong setting.
    model_config = ConfigDict(hide_input_in_errors=True)

    kind: Literal["captioner"] = "captioner"
    base_url: Annotated[str, Execution] = ""
    served_model: str = ""
    revision: str | None = None
    prompt: str = ""
    max_new_tokens: Annotated[int, Field(ge=1)] = 77
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(default={})
    concurrency: Annotated[int, Execution, Field(ge=1)] = 8
    timeout_s: Annotated[float, Execution, Field(gt=0)] = 120
    max_retries: Annotated[int, Execution, Field(ge=0)] = 6
    api_key_env: Annotated[str | None, Execution] = None
    batch_size: Annotated[int, Execution, Field(ge=1)] = 64
    num_gpus: Annotated[float, Execution, Field(ge=0, le=0)] = 0

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        """Refuse an address with a secret in it, since the address is written to files."""
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("must be an http or https address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have no user, password or query: a key is given by api_key_env")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str | None) -> str | None:
        # Upper case only, so that a key given here by mistake is refused. The error does not repeat it.
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError("must be the name of an environment variable, in upper case, and never the key itself")
        return name

    @field_validator("extra_body")
    @classmethod
    def _only_extra(cls, body: dict[str, Any]) -> dict[str, Any]:
        ours = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"}
        if taken := sorted(set(body) & (ours | {"n", "stream"})):
            raise ValueError(f"must not have {', '.join(taken)}: CyclePref sets these, from settings where it has any")
        return body

    @property
    def greedy(self) -> bool:
        """Greedy decoding gives one caption, whatever the seed."""
        return self.temperature == 0

    @property
    def server(self) -> str:
        """The address of the server that does the work."""
        return self.base_url

    @property
    def patience_s(self) -> float:
        """Seconds that all requests of a batch may take, including all allowed retries."""
        return -(-self.batch_size // self.concurrency) * self.row_patience_s

    @property
    def load_patience_s(self) -> float:
        """Seconds for loading, which ends with a first request to the server."""
        return self.load_timeout_s + self.row_patience_s

    @property
    def row_patience_s(self) -> float:
        """Seconds that one row's requests may take, with the waits between them."""
        return (self.max_retries + 1) * (self.timeout_s + LONGEST_WAIT_S)


class PainterSpec(ModelSpec):
    """A text-to-image pipeline, loaded by diffusers' auto classes. Sizes are in pixels.

    `guidance` goes to the pipeline's argument `guidance_argument`; `arguments` to any other argument of its call
    ({prior_guidance_scale: 4.0}). An argument that the pipeline does not accept is an error. `scheduler` replaces the
    pipeline's scheduler by another diffusers class, and `scheduler_config` changes the settings of whichever is used.
    `variant` picks weight files ("fp16"). `compile` compiles the denoiser, `attention_slicing` and `vae_tiling` save
    memory; these three change the numbers, as dtype does. `vae_slicing` decodes one image at a time and `cpu_offload`
    keeps idle parts of the pipeline ("model") or layers ("sequential") in main memory; these two do not change the
    numbers.

    `step_tflop` is what `cyclepref plan` reckons with: 1e12 floating-point operations of one denoising step for an
    image of a megapixel (1024 x 1024), both passes where guidance needs two.
    """

    kind: Literal["text-to-image"] = "text-to-image"
    steps: Annotated[int, Field(ge=1)]
    guidance: Annotated[float, Field(ge=0)]
    width: Annotated[int, Field(ge=8)]
    height: Annotated[int, Field(ge=8)]
    guidance_argument: Literal["guidance_scale", "true_cfg_scale"] = "guidance_scale"
    negative_prompt: str | None = None
    max_sequence_length: Annotated[int, Field(ge=1)] | None = None
    arguments: dict[str, Any] = Field(default={})
    scheduler: str | None = None
    scheduler_config: dict[str, Any] = Field(default={})
    variant: str | None = None
    compile: bool = False
    attention_slicing: bool = False
    vae_tiling: bool = False
    vae_slicing: Annotated[bool, Execution] = False
    cpu_offload: Annotated[Literal["model", "sequential"] | None, Execution] = None
    step_tflop: Annotated[float | None, Execution, Field(gt=0)] = None
    greedy: ClassVar[bool] = False


class SafetySpec(ModelSpec):
    """An image classifier, loaded with AutoModelForImageClassification; `label` is the one whose probability is
    used."""

    kind: Literal["safety"] = "safety"
    label: str


# Every kind of model that generates.
GeneratorSpec = ModelSpec | EndpointSpec


class MetricSpec(Spec):
    """A similarity between an input and a reconstruction; DirectSpec's are between an input and a candidate.

    `higher_is_better` is the metric's direction. Its values lie within [`low`, `high`], which are constants of the
    metric and not of a run. `repo`: a Hub id or a local folder; None means the weights that the metric's package
    contains or downloads. `sha256`: the required hash of model.safetensors, wherever it comes from. `net` is LPIPS's
    backbone, `branch` DreamSim's model. An "embedding" compares images by any vision backbone, "sbert" texts by any
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

    # What is held against an input. Not a field: a metric's kind decides it, and old fingerprints do not have it.
    compares: ClassVar[Literal["reconstruction", "candidate"]] = "reconstruction"
