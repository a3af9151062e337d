"""What a model or a metric is: everything that decides its output, apart from how it is run.

The fields marked `execution` (batch size, devices, workers) may change without changing a row; all others enter
the fingerprint, and through it every id that depends on the model.
"""

import re
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.cycle import Modality

# Version of our own pre- and post-processing (resizing, cleaning of captions); bump it when an output changes.
PROCESSING = 1

Execution = Field(json_schema_extra={"execution": True})


class Spec(BaseModel):
    """Common base: a name, where the weights are, and how to run them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Execution]
    batch_size: Annotated[int, Execution, Field(ge=1)] = 16
    num_gpus: Annotated[float, Execution, Field(ge=0)] = 1
    num_cpus: Annotated[int, Execution, Field(ge=1)] = 1
    about: Annotated[str, Execution] = ""

    def identity(self) -> dict[str, Any]:
        """The settings that change an output, as plain JSON values."""
        execution = [k for k, f in type(self).model_fields.items() if (f.json_schema_extra or {}).get("execution")]
        return {**self.model_dump(mode="json", exclude=set(execution)), "processing": PROCESSING}

    @property
    def server(self) -> str | None:
        """The address of the server that does the work; None where an actor does it itself."""
        return None


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


class EndpointSpec(Spec):
    """A captioner that a server runs, asked by OpenAI's chat completions protocol.

    `base_url` (http or https; often ends in /v1) says where, `served_model` what the server calls the model. What a
    server has loaded cannot be seen from here: `revision` is free text that says so, and a new one makes new rows.
    `limit_parameter` is what the server calls `max_new_tokens`; `extra_body` is added to every request as it is (for
    example `chat_template_kwargs`). `temperature` 0 is greedy decoding; above 0 the low 31 bits of the sample's seed
    are sent.

    `concurrency` is the most requests at a time that one build makes of the server. A request that ends in a
    time-out (`timeout_s` seconds without an answer), a broken connection, 408, 409, 429 or 5xx is repeated up to
    `max_retries` times, after 0.5 s doubling to 8 s or what Retry-After says (up to 120 s). `api_key_env` is the NAME
    of the environment variable with the key, which nothing else knows; without it no key is sent.
    """

    # A wrong value may be a secret in the wrong place.
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
    extra_body: dict[str, Any] = {}
    concurrency: Annotated[int, Execution, Field(ge=1)] = 8
    timeout_s: Annotated[float, Execution, Field(gt=0)] = 120
    max_retries: Annotated[int, Execution, Field(ge=0)] = 6
    api_key_env: Annotated[str | None, Execution] = None
    batch_size: Annotated[int, Execution, Field(ge=1)] = 64
    num_gpus: Annotated[float, Execution, Field(ge=0, le=0)] = 0

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        """An address is written to files, so it must hold no secret."""
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("must be an http or https address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have no user, password or query: a key is given by api_key_env")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str | None) -> str | None:
        # Upper case, as such variables are written: a key in its place is refused, and not repeated.
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


# Every kind of model that generates.
GeneratorSpec = ModelSpec | EndpointSpec


class MetricSpec(Spec):
    """A similarity between an input and a reconstruction.

    `higher_is_better` is the metric's direction; builder/pair.py is the one place that reads it.
    """

    kind: Literal["sbert", "lpips"]
    modality: Modality
    higher_is_better: bool
    low: Annotated[float, Execution]
    high: Annotated[float, Execution]
    repo: str | None = None
    sha256: str | None = None
    net: Literal["alex", "vgg", "squeeze"] | None = None
