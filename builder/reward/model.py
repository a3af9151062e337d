"""The reward model: one number for how well an image and a text belong together.

The form of ImageReward (arXiv 2304.05977) and CycleReward (arXiv 2506.02095): BLIP's vision transformer, BLIP's text
model with cross-attention to the image, one pooled state, and an MLP that ends in a scalar.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BlipForConditionalGeneration,
    BlipProcessor,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.blip.modeling_blip_text import BlipTextPredictionHeadTransform

from builder.images import content_id
from builder.reward.preprocess import ImageLike, open_image, pixels, tokens


class RewardConfig(PreTrainedConfig):
    """Shape of a reward model.

    `pooling` picks the state that the head reads: of the first token ([CLS]), of the last, or the mean over tokens.
    `text_mask` is whether a token sees the tokens after it. BLIP's image-grounded text encoder is bidirectional and
    its [CLS] is read; its caption decoder is causal, where the first token sees no text at all.
    `head_sizes` are the widths between the state and the scalar (CycleReward, ImageReward: 1024, 128, 64, 16),
    `head_activation` stands between them ("gelu" in CycleReward, "linear", that is none, in ImageReward).
    `likelihood_weight` adds that times the mean log-probability of the text's tokens under the caption decoder: a
    captioner's own judgement, which is an implicit reward (SimPO, arXiv 2405.14734). The head then learns what to add
    to it, from 0; 0 leaves it out (CycleReward, ImageReward).
    The reward is (sum - reward_mean) / reward_std (ImageReward-v1.0: 0.167 and 1.033).
    """

    model_type = "cyclepref_reward"
    sub_configs_defaults: ClassVar = {"text_config": BlipTextConfig, "vision_config": BlipVisionConfig}

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    pooling: Literal["first", "last", "mean"] = "first"
    text_mask: Literal["bidirectional", "causal"] = "bidirectional"
    head_sizes: list[int] | tuple[int, ...] = (1024, 128, 64, 16)
    head_activation: str = "gelu"
    head_dropout: float | int = 0.0
    likelihood_weight: float | int = 0.0
    max_text_length: int = 128
    reward_mean: float | int = 0.0
    reward_std: float | int = 1.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        if self.pooling == "first" and self.text_mask == "causal":
            raise ValueError(
                "pooling 'first' with text_mask 'causal' reads a token that sees no text: "
                "use pooling 'last' or 'mean', or text_mask 'bidirectional'"
            )
        if self.likelihood_weight and self.text_mask != "causal":
            raise ValueError(
                f"likelihood_weight {self.likelihood_weight} needs text_mask 'causal': a token that sees the next one "
                "cannot say how likely it was; use likelihood_weight 0 with a bidirectional mask"
            )
        if not self.reward_std > 0:
            raise ValueError(f"reward_std must be positive, got {self.reward_std}")


class Likelihood(nn.Module):
    """The caption decoder's language model head, read as a score; its output embeddings are the input's."""

    def __init__(self, config: BlipTextConfig):
        super().__init__()
        self.transform = BlipTextPredictionHeadTransform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self, states: torch.Tensor, words: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Mean log-probability (n,), at most 0, of each text's tokens after the first.

        `states` are (n, length, width) of a causal text model, `words` the embeddings (vocabulary, width).
        """
        logits = nn.functional.linear(self.transform(states[:, :-1]), words, self.bias)
        following, counts = input_ids[:, 1:], attention_mask[:, 1:].to(logits.dtype)
        token = logits.gather(-1, following.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
        return (token * counts).sum(1) / counts.sum(1).clamp(min=1)


class Ranking(NamedTuple):
    """Candidates in order: `order` holds their indices, best first; `rewards` stands in the order they were given."""

    order: list[int]
    rewards: list[float]


class RewardModel(PreTrainedModel):
    """Scores image-text pairs; higher is better. Rewards of different models do not compare."""

    config: RewardConfig
    config_class = RewardConfig
    base_model_prefix = "reward"
    main_input_name = "pixel_values"

    def __init__(self, config: RewardConfig):
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_model = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.head = _head(config)
        self.likelihood = Likelihood(config.text_config) if config.likelihood_weight else None
        self.processor: BlipProcessor | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Xavier for the head, as in CycleReward; the towers know their own."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
            if module is self.head[-1] and self.likelihood is not None:
                init.zeros_(module.weight)

    # ---- where models come from and go to ------------------------------------------------------------------------

    @classmethod
    def from_captioner(cls, path: str | Path, *, revision: str | None = None, **config: Any) -> "RewardModel":
        """A new reward model whose towers are those of a BLIP captioner, and whose head is random.

        `path` is a Hub id or a folder with a `BlipForConditionalGeneration`; `config` sets fields of `RewardConfig`.

        Raises:
            ValueError: if there is a model of another architecture.
        """
        found = AutoConfig.from_pretrained(path, revision=revision).model_type
        if found != "blip":
            raise ValueError(
                f"a reward model starts from a BLIP captioner (model_type 'blip'), but {path} is {found!r}"
            )
        captioner = BlipForConditionalGeneration.from_pretrained(path, revision=revision, dtype=torch.float32)
        towers = {
            "text_config": captioner.config.text_config,
            "vision_config": captioner.config.vision_config,
        }
        model = cls(RewardConfig(**towers, **config))
        model.vision_model.load_state_dict(captioner.vision_model.state_dict())
        model.text_model.load_state_dict(captioner.text_decoder.bert.state_dict())
        if model.likelihood is not None:
            predictions = captioner.text_decoder.cls.predictions
            model.likelihood.transform.load_state_dict(predictions.transform.state_dict())
            model.likelihood.bias.data.copy_(predictions.decoder.bias)
        model.processor = BlipProcessor.from_pretrained(path, revision=revision)
        return model.eval()

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, revision: str = "main", **kwargs: Any) -> "RewardModel":
        """The model and, from the same place, its processor. Arguments as in `PreTrainedModel.from_pretrained`."""
        loaded = super().from_pretrained(path, *args, revision=revision, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info=True
        model.processor = BlipProcessor.from_pretrained(path, revision=revision)
        return loaded

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write config, weights (safetensors) and processor into a folder that `from_pretrained` reads."""
        self._need_processor().save_pretrained(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    def _need_processor(self) -> BlipProcessor:
        if self.processor is None:
            raise ValueError("this reward model has no processor: set `model.processor` to a BlipProcessor first")
        return self.processor

    @property
    def max_text_length(self) -> int:
        """The most tokens of a text that count, special tokens included."""
        return min(self.config.max_text_length, self.config.text_config.max_position_embeddings)

    def freeze(self, fix_rate: float) -> None:
        """Keep the embeddings and the first `fix_rate` of the layers of both towers as they are.

        0 freezes nothing. CycleReward and ImageReward freeze 0.7: of BLIP-large 8 of 12 text and 16 of 24 image layers.
        """
        self.requires_grad_(True)
        towers = (
            (self.vision_model.embeddings, self.vision_model.encoder.layers),
            (self.text_model.embeddings, self.text_model.encoder.layer),
        )
        for embeddings, layers in towers:
            embeddings.requires_grad_(fix_rate == 0)
            layers[: int(fix_rate * len(layers))].requires_grad_(False)

    # ---- what it computes ------------------------------------------------------------------------------------------

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """States of images: (images, 3, height, width) -> (images, patches + 1, width of the vision tower)."""
        return self.vision_model(pixel_values=pixel_values).last_hidden_state

    def forward(
        self,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_states: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rewards (n,) of n texts, each with its image; differentiable with respect to the pixels.

        `input_ids` and `attention_mask` are (n, length), padded on the right. Images come as pixels or as states that
        `encode_images` made; text i goes with image `image_index[i]`, or with image i if there is no index, so that an
        image that many texts share is encoded once.
        """
        if (image_states is None) == (pixel_values is None):
            raise ValueError("give the images either as pixel_values or as image_states")
        if image_states is None:
            image_states = self.encode_images(pixel_values)
        if image_index is not None:
            image_states = image_states[image_index]
        states = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=image_states,
            is_decoder=self.config.text_mask == "causal",
            use_cache=False,
        ).last_hidden_state
        reward = self.head(self._pool(states, attention_mask)).squeeze(-1)
        if self.likelihood is not None:
            words = self.text_model.get_input_embeddings().weight
            reward = reward + self.config.likelihood_weight * self.likelihood(states, words, input_ids, attention_mask)
        return (reward - self.config.reward_mean) / self.config.reward_std

    def _pool(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, length, width) -> (n, width)."""
        if self.config.pooling == "first":
            return states[:, 0]
        if self.config.pooling == "last":
            return states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1]
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)

    # ---- what it is used for ---------------------------------------------------------------------------------------

    @torch.inference_mode()
    def score(
        self, *, images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str], batch_size: int = 64
    ) -> list[float]:
        """Rewards of image-text pairs, one for each pair.

        Images are PIL images or paths. One image goes with many texts, one text with many images, or as many with as
        many, in order. Each distinct image is encoded once. Texts beyond `max_text_length` are cut, with a warning.

        Raises:
            ValueError: if there are several images and another number of texts, or none.
        """
        images, texts = _paired(images, texts)
        opened = [open_image(image) for image in images]
        content = [content_id(image) for image in opened]
        order = sorted(range(len(texts)), key=lambda i: content[i])  # pairs of one image stand together
        rewards, states = torch.empty(len(texts)), {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            states = self._states({content[i]: opened[i] for i in batch}, known=states)
            inputs = tokens(self._need_processor(), [texts[i] for i in batch], self.max_text_length)
            reward = self(
                input_ids=inputs["input_ids"].to(self.device),
                attention_mask=inputs["attention_mask"].to(self.device),
                image_states=torch.stack([states[content[i]] for i in batch]),
            )
            rewards[batch] = reward.float().cpu()
        return rewards.tolist()

    def _states(self, images: dict[str, Any], known: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """States of the images of one batch by content, those of the batch before it taken over."""
        new = {key: image for key, image in images.items() if key not in known}
        states = {key: known[key] for key in images if key in known}
        if new:
            pixel_values = pixels(self._need_processor(), list(new.values())).to(self.device, self.dtype)
            states |= dict(zip(new, self.encode_images(pixel_values), strict=True))
        return states

    def rank(self, *, prompt: str, images: Sequence[ImageLike]) -> Ranking:
        """Images in the order in which they follow a prompt."""
        return _ranking(self.score(images=images, texts=prompt))

    def rank_captions(self, *, image: ImageLike, texts: Sequence[str]) -> Ranking:
        """Captions in the order in which they describe an image."""
        return _ranking(self.score(images=image, texts=texts))


def _head(config: RewardConfig) -> nn.Sequential:
    sizes = [config.text_config.hidden_size, *config.head_sizes]
    layers: list[nn.Module] = []
    for width, size in pairwise(sizes):
        layers += [nn.Linear(width, size), ACT2FN[config.head_activation], nn.Dropout(config.head_dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def _paired(images: Any, texts: Any) -> tuple[list[ImageLike], list[str]]:
    """Both as lists of one length."""
    images = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    texts = [texts] if isinstance(texts, str) else list(texts)
    count = max(len(images), len(texts))
    if not images or not texts or {len(images), len(texts)} - {1, count}:
        raise ValueError(
            f"got {len(images)} images and {len(texts)} texts: give one image, one text, or as many of both"
        )
    return images * (count // len(images)), texts * (count // len(texts))


def _ranking(rewards: list[float]) -> Ranking:
    return Ranking(sorted(range(len(rewards)), key=lambda i: -rewards[i]), rewards)


AutoConfig.register(RewardConfig.model_type, RewardConfig)
AutoModel.register(RewardConfig, RewardModel)
