"""The reward model: one number for how well an image and a text belong together."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers import initialization as init

from builder.reward.backbones import BACKBONES, Backbone
from builder.reward.card import write_plain_card
from builder.reward.config import RewardConfig
from builder.reward.errors import RewardError
from builder.reward.head import make_head
from builder.reward.preprocess import ImageLike, image_list, tokens
from builder.reward.scoring import Ranking, Scores, paired, ranking, score_pairs
from builder.reward.start import read_config, start

# What `from_pretrained` takes that says where to find a model and its processor.
HUB_OPTIONS = ("token", "cache_dir", "local_files_only", "force_download", "subfolder")


class RewardModel(PreTrainedModel):
    """Scores image-text pairs; higher is better. Rewards of different models do not compare.

    Towers that read an image and a text (see `RewardConfig.backbone`), and an MLP that ends in a scalar. The form of
    ImageReward (arXiv 2304.05977) and CycleReward (arXiv 2506.02095) with BLIP, of Lee et al. (arXiv 2302.12192) with
    CLIP.
    """

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
        """Xavier for the head, as in CycleReward; the towers know their own."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
            if module is self.head[-1] and self.config.likelihood_weight:
                init.zeros_(module.weight)

    # ---- where models come from and go to ------------------------------------------------------------------------

    @classmethod
    def from_backbone(cls, path: str | Path, *, revision: str | None = None, **config: Any) -> "RewardModel":
        """A new reward model with the towers of a BLIP, CLIP or SigLIP, and a head that is random.

        `path` is a Hub id or a folder; `config` sets fields of `RewardConfig`.

        Raises:
            RewardError: if there is no such model, one of another architecture, or one without all its weights.
        """
        return start(cls, path, revision, config)

    @classmethod
    def from_captioner(cls, path: str | Path, *, revision: str | None = None, **config: Any) -> "RewardModel":
        """As `from_backbone`, of a BLIP captioner and nothing else.

        Raises:
            RewardError: if there is a model of another architecture.
        """
        found = read_config(path, revision).model_type
        if found != "blip":
            raise RewardError(
                f"a reward model starts from a BLIP captioner (model_type 'blip'), but {path} is {found!r}"
            )
        return start(cls, path, revision, config)

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, revision: str = "main", **kwargs: Any) -> "RewardModel":
        """The model and, from the same place, its processor. Arguments as in `PreTrainedModel.from_pretrained`.

        Raises:
            RewardError: if there is no reward model, or one with weights missing or too many.
        """
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        found = read_config(path, revision, **hub).model_type
        if found != RewardConfig.model_type:
            raise RewardError(
                f"{path} is no reward model but {found!r}: train one that starts from it, or give the folder that "
                "`cyclepref convert-reward` wrote"
            )
        wanted = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("use_safetensors", True)
        model, info = super().from_pretrained(path, *args, revision=revision, output_loading_info=True, **kwargs)
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[what]:
                names = sorted(map(str, info[what]))
                raise RewardError(
                    f"{path} does not fit its config: {what} {', '.join(names[:5])} ({len(names)} in all)"
                )
        model.processor = AutoProcessor.from_pretrained(path, revision=revision, **hub)
        return (model, info) if wanted else model

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write config, weights (safetensors), processor and a model card into a folder that `from_pretrained` reads.

        A card that is there stays.
        """
        self.need_processor().save_pretrained(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        write_plain_card(Path(save_directory), self.config)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        folder: str | Path | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload reward model",
    ) -> str:
        """Publish the model with its processor and card; returns the commit's address.

        `folder` publishes what a training run wrote, metrics included; otherwise the model is saved first. (The
        library's own method would put an empty card in the place of ours.)
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        options = {"revision": revision, "create_pr": create_pr, "commit_message": commit_message}
        if folder is not None:
            # What training left beside the model (builder/reward/train.py) is of use to nobody else.
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns="work/**", **options))
        with tempfile.TemporaryDirectory(prefix="cyclepref-reward-") as saved:
            self.save_pretrained(saved)
            return str(api.upload_folder(repo_id=repo_id, folder_path=saved, **options))

    def need_processor(self) -> ProcessorMixin:
        """The processor.

        Raises:
            RewardError: if the model has none.
        """
        if self.processor is None:
            raise RewardError("this reward model has no processor: set `model.processor` first")
        return self.processor

    # ---- its shape -------------------------------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """How the towers are read."""
        return BACKBONES[self.config.backbone]

    @property
    def max_text_length(self) -> int:
        """The most tokens of a text that count, special tokens included."""
        return min(self.config.max_text_length, self.config.text_config.max_position_embeddings)

    def freeze(self, fix_rate: float | None = None) -> None:
        """Keep the embeddings and the first `fix_rate` (the config's, unless given) of the layers of both towers.

        0 freezes nothing; 1 also what comes after the layers of a dual encoder. CycleReward and ImageReward freeze
        0.7: of BLIP-large 8 of 12 text and 16 of 24 image layers.
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
        """What `rewards` needs of images, made once for all their texts."""
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
        """From states (n, width) to rewards (n,); the head may be of another dtype than the towers."""
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

        `input_ids` and `attention_mask` are (texts, length), padded on the right. Images come as pixels, normalised,
        or as states that `encode_images` made. Pair i is of image `image_index[i]` and text `text_index[i]`; without
        an index, of image i or text i.
        """
        if (image_states is None) == (pixel_values is None):
            raise RewardError("give the images either as pixel_values or as image_states")
        if image_states is None:
            image_states = self.encode_images(pixel_values)
        texts = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.rewards(self.read_images(image_states), **texts, image_index=image_index, text_index=text_index)

    # ---- what it is used for ---------------------------------------------------------------------------------------

    def score(
        self,
        *,
        images: ImageLike | Sequence[ImageLike],
        texts: str | Sequence[str],
        batch_size: int = 64,
        tick: Callable[[int], None] = lambda done: None,
    ) -> Scores:
        """Rewards of image-text pairs, one for each pair; a list, whose `truncated` names pairs whose text was cut.

        Images are paths, PIL images, arrays or tensors (see `open_image`). One image goes with many texts, one text
        with many images, or as many with as many, in order. Each distinct image and text is encoded once (a text of
        BLIP once with each of its images). Texts beyond `max_text_length` are cut, with a warning. `tick` is told of
        pairs as they are done.

        Raises:
            RewardError: if there are several images and another number of texts, or none; or for a NaN.
            ImageNotFound, UnreadableImage, WrongType: for what is no image or no text.
        """
        if batch_size < 1:
            raise RewardError(f"batch_size must be positive, got {batch_size}")
        return score_pairs(self, *paired(images, texts), batch_size, tick)

    def reward_of_pixels(self, *, pixel_values: torch.Tensor, texts: str | Sequence[str]) -> torch.Tensor:
        """Rewards (n,) of images given as normalised pixels (images, 3, height, width); differentiable.

        One text for all images, or one for each. The pixels may be of any floating dtype and on any device.

        Raises:
            RewardError: for pixels of another shape or kind, or another number of texts.
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

    def rank(self, *, prompt: str, images: Sequence[ImageLike]) -> Ranking:
        """Images in the order in which they follow a prompt."""
        return ranking(self.score(images=images, texts=prompt))

    def rank_captions(self, *, image: ImageLike, texts: Sequence[str]) -> Ranking:
        """Captions in the order in which they describe an image."""
        return ranking(self.score(images=image, texts=texts))

    def best_of_n(self, *, k: int = 1, images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str]) -> Ranking:
        """The best k of n images for one text, or of n texts for one image: `order` names them, best first.

        Rejection sampling with a reward, as Lee et al. 2023 keep the best 4 of 16 images.

        Raises:
            RewardError: if k is not between 1 and n, or there are several of both.
        """
        images, texts = image_list(images), [texts] if isinstance(texts, str) else list(texts)
        if len(images) > 1 and len(texts) > 1:
            raise RewardError(
                f"best of n takes one text with n images, or one image with n texts; got {len(images)} images and "
                f"{len(texts)} texts"
            )
        return best(self.score(images=images, texts=texts), k)


def best(scores: Scores, k: int) -> Ranking:
    """A ranking of which only the best k are in `order`.

    Raises:
        RewardError: if k is not between 1 and the number of scores.
    """
    if not 1 <= k <= len(scores):
        raise RewardError(f"k must be between 1 and the {len(scores)} candidates, got {k}")
    found = ranking(scores)
    return found._replace(order=found.order[:k])


AutoConfig.register(RewardConfig.model_type, RewardConfig)
AutoModel.register(RewardConfig, RewardModel)
