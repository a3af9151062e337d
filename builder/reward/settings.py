"""What a reward model's training can be told; imports no torch, so that command lines stay quick."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.sources import Part


class HeadSettings(Part):
    """How the joint state of an image and a text becomes one number; fields of `RewardConfig` of the same name.

    The form of CycleReward is pooling "first", text_mask "bidirectional", head_sizes (1024, 128, 64, 16) and
    likelihood_weight 0, and needs far more pairs: some 2,000 a cycle of the embedded world, 12% of them turned round,
    brought such a head to 65-73% agreement with the truth on new inputs, where the captioner's likelihood begins at
    90%. At weight 1 its odds fit those pairs; at 5 the first epochs go into unlearning its certainty.
    """

    pooling: Literal["first", "last", "mean"] = "mean"
    text_mask: Literal["bidirectional", "causal"] = "causal"
    head_sizes: tuple[Annotated[int, Field(ge=1)], ...] = (128, 16)
    head_activation: str = "gelu"
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    likelihood_weight: Annotated[float, Field(ge=0)] = 1.0


class TrainSettings(Part):
    """Settings of one training run. The defaults suit the embedded world, in well under a minute.

    About 120 inputs a cycle are too few to move a captioner's towers, which forget more than they learn, so all their
    layers are frozen; what learns are the reward's head, the decoder's language model head and the last normalisation.
    CycleReward (arXiv 2506.02095) trains BLIP-large with fix_rate 0.7, learning rate 2e-5, cosine without warm-up,
    2 epochs, 2,048 pairs a step, and image_weight 1 in its Combo form.

    `inputs_per_step` counts inputs: a step holds all candidates and all pairs of each. `image_weight` is the lambda of
    L_text + lambda * L_image. `fix_rate` freezes the embeddings and that share of the first layers of both towers.
    `patience` is how many epochs without a better validation accuracy end the run; null trains every epoch.
    `head` describes a model that starts from a captioner; a reward model that is trained on keeps its own.
    """

    seed: int = 0
    epochs: Annotated[int, Field(ge=1)] = 6
    inputs_per_step: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    image_weight: Annotated[float, Field(ge=0)] = 1.0
    fix_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    patience: Annotated[int, Field(ge=1)] | None = None
    pixel_cache_mb: Annotated[int, Field(ge=0)] = 512
    head: HeadSettings = HeadSettings()
