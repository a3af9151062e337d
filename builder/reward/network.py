"""The reward model's network: towers and head, on tensors.

This file and those of this package that it imports are copied, as one file, into every saved model, for
`AutoModel.from_pretrained(..., trust_remote_code=True)` (see builder/reward/remote.py). So they must import nothing
else of CyclePref.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers import initialization as init

from cyclepref.builder.reward.backbones import BACKBONES, Backbone
from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.head import make_head
from cyclepref.builder.reward.preprocess import normalised, pixels, tokens
from cyclepref.builder.reward.weights import load_whole

# Arguments of `from_pretrained` that say where to find a model and its processor.
HUB_OPTIONS = (
    "token", "cache_dir", "local_files_only", "force_download", "subfolder", "revision", "trust_remote_code",
)  # fmt: skip


class RewardNetwork(PreTrainedModel):
    """Scores image-text pairs; higher is better. Rewards of different models cannot be compared."""

    config: RewardConfig
    config_class = RewardConfig
    base_model_prefix = "reward"
    main_input_name = "pixel_values"

    def __init__(self, config: RewardConfig):
        super().__init__(config)
        for name, tower in self.backbone.towers(config).items():
            self.add_module(name, tower)
        self.head = make_head(config, self.backbone.width(config))
        self.processor: ProcessorMixin | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Xavier initialisation for the head, as in CycleReward; the towers initialise themselves."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
            if module is self.head[-1] and self.config.likelihood_weight:
                init.zeros_(module.weight)

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, **kwargs: Any) -> "RewardNetwork":
        """The model and, from the same place, its processor. Arguments as in `PreTrainedModel.from_pretrained`.

        Raises:
            RewardError: if the weights or the processor cannot be read, or weights are missing, unexpected or of
                another shape.
        """
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        wanted = kwargs.pop("output_loading_info", False)

        def load(path: str | Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            return super(RewardNetwork, cls).from_pretrained(path, *args, **kwargs)

        model, info = load_whole(load, path, **kwargs)
        model.processor = read_processor(path, model.config.text_config.vocab_size, **hub)
        return (model, info) if wanted else model

    def need_processor(self) -> ProcessorMixin:
        """The processor.

        Raises:
            RewardError: if the model has no processor.
        """
        if self.processor is None:
            raise RewardError("this reward model has no processor: set `model.processor` first")
        return self.processor

    # ---- its shape -------------------------------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """The backbone, which runs the towers."""
        return BACKBONES[self.config.backbone]

    @property
    def max_text_length(self) -> int:
        """The most tokens of a text that count, special tokens included."""
        return min(self.config.max_text_length, self.config.text_config.max_position_embeddings)

    def freeze(self, fix_rate: float | None = None) -> None:
        """Freeze the embeddings and the first `fix_rate` (by default the config's) of the layers of both towers.

        0 freezes nothing; 1 also freezes the modules after the layers of a dual encoder. CycleReward and ImageReward
        freeze 0.7: 8 of 12 text layers and 16 of 24 image layers of BLIP-large.
        """
        if fix_rate is not None:
            self.config.fix_rate = fix_rate
        self.requires_grad_(True)
        for tower in self.backbone.parts(self):
            tower.freeze(self.config.fix_rate)

    # ---- what it computes ------------------------------------------------------------------------------------------

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """States of images: (images, 3, height, width) -> (images, ...), by backbone."""
        return self.backbone.encode_images(self, pixel_values)

    def read_images(self, image_states: torch.Tensor) -> Any:
        """What `rewards` needs from images, computed once for all their texts."""
        return self.backbone.read_images(self, image_states)

    def rewards(
        self,
        memory: Any,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor | None = None,
        text_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rewards (n,) of texts with images that `read_images` has read; indices as in `forward`."""
        states, bonus = self.backbone.pair_states(self, memory, image_index, input_ids, attention_mask, text_index)
        return self.output(states, bonus)

    def output(self, states: torch.Tensor, bonus: torch.Tensor | float) -> torch.Tensor:
        """From states (n, width) to rewards (n,); the head may have another dtype than the towers."""
        reward = self.head(states.to(self.head[-1].weight.dtype)).squeeze(-1)
        if self.config.head_output == "sigmoid":
            reward = reward.sigmoid()
        return (reward + bonus - self.config.reward_mean) / self.config.reward_std

    def forward(
        self,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_states: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        text_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rewards (n,) of n pairs; differentiable with respect to the pixels.

        `input_ids` and `attention_mask` are (texts, length), padded on the right. Images are given as normalised
        pixels, or as states from `encode_images`. Pair i has image `image_index[i]` and text `text_index[i]`; without
        an index, image i or text i.
        """
        if (image_states is None) == (pixel_values is None):
            raise RewardError("give the images either as pixel_values or as image_states")
        if image_states is None:
            image_states = self.encode_images(pixel_values)
        texts = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.rewards(self.read_images(image_states), **texts, image_index=image_index, text_index=text_index)

    # ---- preprocessing and scoring ---------------------------------------------------------------------------------

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """From colours (images, 3, height, width), floats in [0, 1], of any size, to `pixel_values` as the towers read
        them: resized, cropped and normalised as the processor says. Differentiable, on the device of the images.

        The result equals that for image files, except that files are rounded to bytes, which also clips the overshoot
        of bicubic resizing.

        Raises:
            RewardError: if the images have another shape, dtype or range, or the model has no processor.
        """
        return normalised(self.need_processor(), images)

    def reward_of_pixels(self, *, pixel_values: torch.Tensor, texts: str | Sequence[str]) -> torch.Tensor:
        """Rewards (n,) of images given as normalised pixels (images, 3, height, width); differentiable.

        One text for all images, or one for each. The pixels may be of any floating dtype and on any device; for images
        with colours in [0, 1] call `preprocess` first.

        Raises:
            RewardError: if the pixels have another shape or dtype, or the number of texts does not match.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or not pixel_values.is_floating_point():
            raise RewardError(
                "pixel_values are floats (images, 3, height, width), normalised as the processor says; "
                f"got {pixel_values.dtype} {tuple(pixel_values.shape)}"
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        if len(texts) not in (1, len(pixel_values)):
            raise RewardError(f"got {len(pixel_values)} images and {len(texts)} texts: give one text, or one for each")
        inputs = tokens(self.need_processor(), texts, self.max_text_length)
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        index = torch.zeros(len(pixel_values), dtype=torch.long, device=self.device) if len(texts) == 1 else None
        return self(pixel_values=pixel_values.to(self.device, self.dtype), **inputs, text_index=index)

    @torch.no_grad()
    def score(self, *, images: Any, texts: Any) -> list[float]:
        """Rewards of PIL images, RGB and upright, with texts: one image and many texts, one text and many images, or
        equally many of both.

        (The package itself also reads files and arrays, in batches: `RewardModel.score`.)

        Raises:
            RewardError: if the numbers of images and texts do not match.
        """
        images = list(images) if isinstance(images, list | tuple) else [images]
        texts = [texts] if isinstance(texts, str) else list(texts)
        if len(images) == 1:
            images = images * len(texts)
        return self.reward_of_pixels(pixel_values=pixels(self.need_processor(), images), texts=texts).tolist()


def read_processor(path: str | Path, words: int, **hub: Any) -> ProcessorMixin:
    """The processor of a model with a vocabulary of `words` tokens.

    Raises:
        RewardError: if there is no readable processor, or its tokenizer belongs to another model.
    """
    try:
        found = AutoProcessor.from_pretrained(path, **{"trust_remote_code": False, **hub})
    # Readers raise all kinds of exceptions for broken files.
    except Exception as error:
        raise RewardError(
            f"{path} has no processor that can be read ({type(error).__name__}: {' '.join(str(error).split()):.300}): "
            "copy the tokenizer's and image processor's files beside the model"
        ) from error
    tokenizer = found.tokenizer
    # Without a vocabulary file the library makes a tokenizer with special tokens only.
    if not len(tokenizer.all_special_ids) < len(tokenizer) <= words:
        raise RewardError(
            f"the tokenizer of {path} has {len(tokenizer)} tokens and the model {words}: its files are missing or of "
            "another model; copy them from where the model comes from"
        )
    return found
