"""Text-to-image pipelines of the diffusers library, by AutoPipelineForText2Image and DiffusionPipeline."""

import inspect
from typing import Any

import diffusers
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class
from transformers import PreTrainedTokenizerBase

from cyclepref.builder.models.loading import ModelError, check_fits, device, loading, pad_batch, quiet, source_of
from cyclepref.builder.models.prompt_limits import CutWatch, watch
from cyclepref.builder.models.protocols import Painting
from cyclepref.schemas.specs import PainterSpec

# A pipeline's names for fields of the spec; `arguments` must not set these a second time.
OWN = {"prompt", "num_inference_steps", "width", "height", "generator", "negative_prompt", "max_sequence_length",
       "num_images_per_prompt", "output_type", "return_dict"}  # fmt: skip
# Pipelines in which an image depends on the other prompts of its batch; these get one prompt at a time. Kandinsky 3
# cuts all embeddings to the batch's longest prompt, and then averages over what is left, padding included.
ONE_BY_ONE = {"Kandinsky3Pipeline"}


class DiffusersPipeline:
    """One text-to-image pipeline on one device, always run at its full batch size.

    Raises:
        ModelError: if the repo or folder is not such a pipeline, one of the spec's settings does not apply to it, a
            package is missing, or it does not fit the GPU.
    """

    def __init__(self, spec: PainterSpec):
        self.spec = spec
        quiet()
        check_fits(spec)
        with loading(spec):
            self.pipeline = self._load()
        self._arguments = self._checked_arguments()
        self._configure()
        # A processor in a tokenizer's place has the tokenizer inside.
        parts = {name: getattr(part, "tokenizer", part) for name, part in self.pipeline.components.items()}
        default = inspect.signature(self.pipeline.__call__).parameters.get("max_sequence_length")
        limit = spec.max_sequence_length or (default.default if default else None)
        self._readers: list[CutWatch] = [
            watch(name, part, limit) for name, part in parts.items() if isinstance(part, PreTrainedTokenizerBase)
        ]

    @torch.inference_mode()
    def paint(self, prompts: list[str], seeds: list[int]) -> list[Painting]:
        """One image of the spec's size for each prompt, in order. Each image has a CPU generator of its own, so that
        its noise is the same on every device and in every batch."""
        paintings: list[Painting] = []
        size = 1 if type(self.pipeline).__name__ in ONE_BY_ONE else self.spec.batch_size
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            padded, noise = pad_batch(batch, size), pad_batch(seeds[start : start + size], size)
            paintings += self._paint_batch(padded, noise)[: len(batch)]
        return paintings

    def _paint_batch(self, prompts: list[str], seeds: list[int]) -> list[Painting]:
        for reader in self._readers:
            reader.begin(prompts)
        arguments = dict(self._arguments)
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompts)
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        # A copy, since Z-Image writes its chat template into the list that it is given.
        output = self.pipeline(prompt=list(prompts), generator=noise, **arguments)
        flags = getattr(output, "nsfw_content_detected", None) or [None] * len(prompts)
        cut = [tuple(reader.name for reader in self._readers if reader.cut(row)) for row in range(len(prompts))]
        return [
            Painting(image.convert("RGB"), self._unread(by), by, flag)
            for image, by, flag in zip(output.images, cut, flags, strict=True)
        ]

    def _unread(self, cut_by: tuple[str, ...]) -> bool:
        """Whether no text encoder read all of a prompt, because each one in use cut it."""
        return bool(cut_by) and len(cut_by) == sum(reader.asked for reader in self._readers)

    def _load(self) -> DiffusionPipeline:
        where, pin = source_of(self.spec)
        config = DiffusionPipeline.load_config(where, **{k: v for k, v in pin.items() if k != "trust_remote_code"})
        # The auto class joins a pipeline that is one half of its family (Kandinsky's decoder) with the other half.
        # Pipelines that the auto class does not list are loaded by DiffusionPipeline.
        listed = _get_task_class(
            AUTO_TEXT2IMAGE_PIPELINES_MAPPING, config["_class_name"], throw_error_if_not_exist=False
        )
        loader = AutoPipelineForText2Image if listed else DiffusionPipeline
        dtype, variant = getattr(torch, self.spec.dtype), self.spec.variant
        return loader.from_pretrained(where, dtype=dtype, variant=variant, use_safetensors=True, **pin)

    def _checked_arguments(self) -> dict[str, Any]:
        """The call's arguments except prompts and noise. An argument that the pipeline does not take is an error."""
        spec = self.spec
        own = {"negative_prompt": spec.negative_prompt, "max_sequence_length": spec.max_sequence_length}
        arguments = {
            "num_inference_steps": spec.steps,
            spec.guidance_argument: spec.guidance,
            "width": spec.width,
            "height": spec.height,
            **{name: value for name, value in own.items() if value is not None},
        }
        twice = sorted(set(spec.arguments) & (OWN | {spec.guidance_argument}))
        if twice:
            raise ModelError(f"{spec.name}: arguments names {', '.join(twice)}, which the spec sets by its own fields")
        arguments |= spec.arguments
        accepted = inspect.signature(self.pipeline.__call__).parameters
        unknown = [name for name in arguments if name not in accepted]
        if unknown:
            raise ModelError(
                f"{spec.name}: {type(self.pipeline).__name__} does not take {', '.join(unknown)}: remove the setting; "
                f"it takes {', '.join(name for name in accepted if name not in ('self', 'args', 'kwargs'))}"
            )
        return arguments

    def _configure(self) -> None:
        """Apply the spec's settings of scheduler, memory and speed."""
        spec, pipeline = self.spec, self.pipeline
        pipeline.set_progress_bar_config(disable=True)
        if spec.scheduler or spec.scheduler_config:
            pipeline.scheduler = self._scheduler(pipeline.scheduler)
        if spec.attention_slicing:
            self._need(pipeline, "enable_attention_slicing", "attention_slicing")()
        if spec.vae_slicing:
            self._need(self._vae(), "enable_slicing", "vae_slicing")()
        if spec.vae_tiling:
            self._need(self._vae(), "enable_tiling", "vae_tiling")()
        if spec.compile:
            denoiser = getattr(pipeline, "transformer", None) or self._need(pipeline, "unet", "compile")
            denoiser.compile()
        if spec.cpu_offload is None:
            pipeline.to(device())
        elif not torch.cuda.is_available():
            raise ModelError(f"{spec.name}: cpu_offload needs a GPU to offload from, and there is none: set it to null")
        elif spec.cpu_offload == "model":
            pipeline.enable_model_cpu_offload()
        else:
            pipeline.enable_sequential_cpu_offload()

    def _vae(self) -> Any:
        return getattr(self.pipeline, "vae", None)

    def _need(self, owner: Any, attribute: str, setting: str) -> Any:
        found = getattr(owner, attribute, None)
        if found is None:
            raise ModelError(f"{self.spec.name}: {type(self.pipeline).__name__} has no {setting}: remove the setting")
        return found

    def _scheduler(self, shipped: Any) -> Any:
        """The pipeline's scheduler, with the class and settings of the spec."""
        spec = self.spec
        kind = getattr(diffusers, spec.scheduler, None) if spec.scheduler else type(shipped)
        if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
            names = ", ".join(sorted(name for name in dir(diffusers) if name.endswith("Scheduler")))
            raise ModelError(f"{spec.name}: unknown scheduler {spec.scheduler!r}: choose from {names}")
        known = inspect.signature(kind.__init__).parameters
        unknown = [name for name in spec.scheduler_config if name not in known]
        if unknown:
            raise ModelError(
                f"{spec.name}: {kind.__name__} has no setting {', '.join(unknown)}: "
                f"choose from {', '.join(name for name in known if name != 'self')}"
            )
        return kind.from_config(shipped.config, **spec.scheduler_config)
