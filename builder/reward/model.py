"""The reward model: one number for how well an image and a text belong together."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel

from cyclepref.builder.reward.card import write_plain_card
from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.network import HUB_OPTIONS, RewardNetwork
from cyclepref.builder.reward.opening import ImageLike, image_list
from cyclepref.builder.reward.remote import AUTO_MAP, write_code
from cyclepref.builder.reward.scoring import Ranking, Scores, paired, ranking, score_pairs
from cyclepref.builder.reward.start import read_config, start


class RewardModel(RewardNetwork):
    """Scores image-text pairs; higher is better. Rewards of different models cannot be compared.

    Towers read an image and a text (see `RewardConfig.backbone`), and an MLP turns their state into a scalar. With BLIP
    this is the form of ImageReward (arXiv 2304.05977) and CycleReward (arXiv 2506.02095), with CLIP that of Lee et al.
    (arXiv 2302.12192).

    >>> model = cyclepref.RewardModel.from_pretrained("reward")
    >>> scores = model.score(images=["a.png", "b.png"], texts="two red circles")
    >>> len(scores)
    2
    """

    # ---- loading and saving --------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(cls, path: str | Path, *, revision: str | None = None, **config: Any) -> "RewardModel":
        """A new reward model with the towers of a BLIP, CLIP or SigLIP, and a random head.

        `path` is a Hub id or a folder; `config` sets fields of `RewardConfig`.

        Raises:
            RewardError: if there is no such model, it has another architecture, or it lacks weights.
        """
        return start(cls, path, revision, config)

    @classmethod
    def from_captioner(cls, path: str | Path, *, revision: str | None = None, **config: Any) -> "RewardModel":
        """As `from_backbone`, for BLIP captioners only.

        Raises:
            RewardError: if the model has another architecture.
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
            RewardError: if there is no reward model, or its weights are missing or unexpected.
        """
        hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        found = read_config(path, revision, **hub).model_type
        if found != RewardConfig.model_type:
            raise RewardError(
                f"{path} is not a reward model but {found!r}: train one that starts from it, or give the folder that "
                "`cyclepref convert-reward` wrote"
            )
        return super().from_pretrained(path, *args, revision=revision, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write config, weights (safetensors), processor, a model card, and the code with which `AutoModel` loads the
        model without CyclePref, into a folder that `from_pretrained` reads.

        An existing card stays.
        """
        folder = Path(save_directory)
        self.need_processor().save_pretrained(folder)
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(folder, *args, **kwargs)
        write_code(folder)
        # safetensors writes files that no other user can read; give them the mode that the umask allows.
        mode = (folder / "config.json").stat().st_mode & 0o666
        for file in folder.glob("*.safetensors"):
            file.chmod(mode)
        write_plain_card(folder, self.config)

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

        `folder` publishes the files that a training run wrote, metrics included; without it the model is saved first.
        (The library's own method would replace our card by an empty one.)
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        options = {"revision": revision, "create_pr": create_pr, "commit_message": commit_message}
        if folder is not None:
            # Checkpoints and caches that training left beside the model (builder/reward/training/train.py) stay here.
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns="work/**", **options))
        with tempfile.TemporaryDirectory(prefix="cyclepref-reward-") as saved:
            self.save_pretrained(saved)
            return str(api.upload_folder(repo_id=repo_id, folder_path=saved, **options))

    # ---- scoring ---------------------------------------------------------------------------------------------------

    def score(
        self,
        *,
        images: ImageLike | Sequence[ImageLike],
        texts: str | Sequence[str],
        batch_size: int = 64,
        tick: Callable[[int], None] = lambda done: None,
    ) -> Scores:
        """Rewards of image-text pairs, one for each pair; a list, whose `truncated` names pairs whose text was cut.

        Images are paths, PIL images, arrays or tensors (see `open_image`). A single image is paired with every text, a
        single text with every image; equally many go together in order. Each distinct image and text is encoded once
        (BLIP encodes a text once with each of its images). Texts beyond `max_text_length` are cut, with a warning.
        `tick` is called with the number of pairs done.

        Raises:
            RewardError: if the numbers of images and texts do not match, one is 0, or a reward is not finite.
            ImageNotFound, UnreadableImage, WrongType: if an image or text cannot be read.
        """
        if batch_size < 1:
            raise RewardError(f"batch_size must be positive, got {batch_size}")
        return score_pairs(self, *paired(images, texts), batch_size, tick)

    def rank(self, *, prompt: str, images: Sequence[ImageLike]) -> Ranking:
        """Images in order of their rewards with a prompt, best first."""
        return ranking(self.score(images=images, texts=prompt))

    def rank_captions(self, *, image: ImageLike, texts: Sequence[str]) -> Ranking:
        """Captions in order of their rewards with an image, best first."""
        return ranking(self.score(images=image, texts=texts))

    def best_of_n(self, *, k: int = 1, images: ImageLike | Sequence[ImageLike], texts: str | Sequence[str]) -> Ranking:
        """The best k of n images for one text, or of n texts for one image: `order` names them, best first.

        Rejection sampling with a reward, as Lee et al. 2023 keep the best 4 of 16 images.

        Raises:
            RewardError: if k is not between 1 and n, or both images and texts are several.
        """
        images, texts = image_list(images), [texts] if isinstance(texts, str) else list(texts)
        if len(images) > 1 and len(texts) > 1:
            raise RewardError(
                f"best of n takes one text with n images, or one image with n texts; got {len(images)} images and "
                f"{len(texts)} texts"
            )
        return best(self.score(images=images, texts=texts), k)


def best(scores: Scores, k: int) -> Ranking:
    """A ranking with only the best k in `order`.

    Raises:
        RewardError: if k is not between 1 and the number of scores.
    """
    if not 1 <= k <= len(scores):
        raise RewardError(f"k must be between 1 and the {len(scores)} candidates, got {k}")
    found = ranking(scores)
    return found._replace(order=found.order[:k])


AutoConfig.register(RewardConfig.model_type, RewardConfig)
AutoModel.register(RewardConfig, RewardModel)
