"""The shape of a reward model, and the shapes used in papers."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import (
    BlipTextConfig,
    BlipVisionConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from cyclepref.builder.reward.errors import RewardError

TOWERS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedConfig]]] = {
    "blip": (BlipTextConfig, BlipVisionConfig),
    "clip": (CLIPTextConfig, CLIPVisionConfig),
    "siglip": (SiglipTextConfig, SiglipVisionConfig),
}

# arXiv 2506.02095 and its repository hjbahng/cyclereward.
CYCLEREWARD: dict[str, Any] = {"fix_rate": 0.7, "max_text_length": 128}
# arXiv 2304.05977 and its repository THUDM/ImageReward (ImageReward.py: MLP, mean, std).
IMAGEREWARD: dict[str, Any] = {
    "head_activation": "linear",
    "head_dropout": (0.2, 0.2, 0.1, 0.0),
    "max_text_length": 35,
    "reward_mean": 0.16717362830052426,
    "reward_std": 1.0333394966054072,
    "fix_rate": 0.7,
}
# Lee et al. 2023 (arXiv 2302.12192): two hidden layers of 1024 on the embeddings of CLIP ViT-L/14, which are frozen;
# ReLU between layers, a sigmoid at the end.
LEE_2023: dict[str, Any] = {
    "head_sizes": (1024, 1024),
    "head_activation": "relu",
    "head_output": "sigmoid",
    "fix_rate": 1.0,
    "max_text_length": 77,
}


@strict
class RewardConfig(PreTrainedConfig):
    """Shape of a reward model; the defaults of the head are CycleReward's.

    `backbone` is the kind of towers: "blip" reads the text with cross-attention to the image; "clip" and "siglip" are
    dual encoders, whose image and text embeddings the head reads side by side. `projection_dim` is the width of CLIP's
    joint embeddings (its default: 512); SigLIP's and BLIP's have no projection. `pooling` picks the state of BLIP that
    the head reads: that of the first token ([CLS]), of the last one, or the mean over tokens. `text_mask` says whether
    a token sees the tokens after it. BLIP's image-grounded text encoder is bidirectional, with [CLS] as its output; its
    caption decoder is causal, so that the first token sees no text. `head_sizes` are the widths between the state and
    the scalar (CycleReward, ImageReward: 1024, 128, 64, 16), `head_activation` is applied between them ("gelu" in
    CycleReward, "linear", that is none, in ImageReward), `head_dropout` after each of them (one number, or one for
    each), `head_output` to the scalar. `likelihood_weight` adds this weight times the mean log-probability of the
    text's tokens under BLIP's caption decoder, which is an implicit reward (SimPO, arXiv 2405.14734). The head then
    starts at 0 and learns a correction; weight 0 leaves the likelihood out (CycleReward, ImageReward). `fix_rate` in
    [0, 1] is the share of the towers' first layers that training freezes (see `RewardModel.freeze`). `max_text_length`
    counts tokens, special ones included; longer texts are cut, with a warning. The reward is (output - reward_mean) /
    reward_std.

    Raises:
        RewardError: if settings contradict one another or are out of range.
    """

    model_type = "cyclepref_reward"
    sub_configs_defaults: ClassVar = {"text_config": BlipTextConfig, "vision_config": BlipVisionConfig}

    backbone: Literal["blip", "clip", "siglip"] = "blip"
    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 512
    pooling: Literal["first", "last", "mean"] = "first"
    text_mask: Literal["bidirectional", "causal"] = "bidirectional"
    head_sizes: list[int] | tuple[int, ...] = (1024, 128, 64, 16)
    head_activation: str = "gelu"
    head_dropout: float | int | list[float] | tuple[float, ...] = 0.0
    head_output: Literal["linear", "sigmoid"] = "linear"
    likelihood_weight: float | int = 0.0
    fix_rate: float | int = 0.0
    max_text_length: int = 128
    reward_mean: float | int = 0.0
    reward_std: float | int = 1.0

    def __post_init__(self, **kwargs):
        if self.backbone not in TOWERS:
            raise RewardError(f"unknown backbone {self.backbone!r}. Choose from: {', '.join(TOWERS)}")
        kinds = TOWERS[self.backbone]
        self.text_config, self.vision_config = (
            given if isinstance(given, PreTrainedConfig) else kind(**(given or {}))
            for kind, given in zip(kinds, (self.text_config, self.vision_config), strict=True)
        )
        super().__post_init__(**kwargs)
        if self.backbone == "blip":
            self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        self._check_reading()
        self._check_numbers()

    @property
    def head_dropouts(self) -> list[float]:
        """The dropout after each hidden layer of the head."""
        several = isinstance(self.head_dropout, list | tuple)
        return list(self.head_dropout) if several else [self.head_dropout] * len(self.head_sizes)

    def _check_reading(self) -> None:
        if self.backbone == "blip" and self.pooling == "first" and self.text_mask == "causal":
            raise RewardError(
                "pooling 'first' with text_mask 'causal' reads a token that sees no text: "
                "use pooling 'last' or 'mean', or text_mask 'bidirectional'"
            )
        if self.likelihood_weight and (self.text_mask != "causal" or self.backbone != "blip"):
            raise RewardError(
                f"likelihood_weight {self.likelihood_weight} needs text_mask 'causal' of the backbone 'blip': a token "
                "that sees the next one cannot say how likely it was; use likelihood_weight 0 otherwise"
            )

    def _check_numbers(self) -> None:
        if not self.reward_std > 0:
            raise RewardError(f"reward_std must be positive, got {self.reward_std}")
        if not 0 <= self.fix_rate <= 1:
            raise RewardError(f"fix_rate is a share of layers, from 0 to 1, got {self.fix_rate}")
        if self.max_text_length < 3:
            raise RewardError(
                f"max_text_length must leave room for a word between two ends, got {self.max_text_length}"
            )
        if self.text_config.max_position_embeddings < 3:
            raise RewardError(
                "the text tower must have positions for a word between two ends, got "
                f"{self.text_config.max_position_embeddings}"
            )
        if any(size < 1 for size in self.head_sizes):
            raise RewardError(f"head_sizes must be positive, got {list(self.head_sizes)}")
        dropouts = self.head_dropouts
        if len(dropouts) != len(self.head_sizes) or not all(0 <= dropout < 1 for dropout in dropouts):
            raise RewardError(
                f"head_dropout must be one number in [0, 1), or one for each of the {len(self.head_sizes)} head_sizes; "
                f"got {self.head_dropout}"
            )
