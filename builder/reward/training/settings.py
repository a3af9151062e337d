"""The settings of a reward model's training; imports no torch, so that the command line starts quickly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cyclepref.builder.reward.errors import RewardError
from cyclepref.schemas.rules import Fault, Section, check, rule
from cyclepref.schemas.settings_file import Settings, read_settings


class HeadSettings(Section):
    """How the joint state of an image and a text becomes one number; fields of `RewardConfig` of the same name.

    CycleReward uses pooling "first", text_mask "bidirectional", head_sizes (1024, 128, 64, 16) and likelihood_weight 0.
    That needs far more pairs: 2,000 a cycle of the embedded world, 12% of them with wrong labels, brought such a head
    to 65-73% agreement with the truth on new inputs, where the captioner's likelihood alone has 90%. At
    likelihood_weight 1 the odds fit those pairs; at 5 the model is too certain, and the first epochs only reduce that.
    """

    pooling: Literal["first", "last", "mean"] = "mean"
    text_mask: Literal["bidirectional", "causal"] = "causal"
    head_sizes: tuple[Annotated[int, Field(ge=1)], ...] = (128, 16)
    head_activation: str = "gelu"
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    head_output: Literal["linear", "sigmoid"] = "linear"
    likelihood_weight: Annotated[float, Field(ge=0)] = 1.0
    max_text_length: Annotated[int, Field(ge=3)] = 128


class PairSettings(Section):
    """Filters on a dataset's pairs; as in `cyclepref.builder.preferences.filters.Filters`."""

    min_margin: Annotated[float, Field(ge=0)] | None = None
    max_margin: Annotated[float, Field(ge=0)] | None = None
    top_vs_bottom: bool = False
    max_pairs_per_input: Annotated[int, Field(ge=1)] | None = None
    balance_by_model: bool = False


class AuxiliarySettings(Section):
    """Lee et al.'s prompt classification (arXiv 2302.12192), added to the loss times `weight`.

    The model learns to tell an image with its prompt from the same image with up to `prompts` perturbed prompts (see
    builder/reward/training/perturb.py), by a softmax of rewards / `temperature`. The default numbers are ours.
    """

    weight: Annotated[float, Field(gt=0)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.1
    prompts: Annotated[int, Field(ge=1)] = 8


class TrainSettings(Section):
    """Settings of one training run. The defaults suit the embedded world, in well under a minute.

    About 120 inputs a cycle are too few to train a captioner's towers, which forget more than they learn. So all their
    layers are frozen; the reward's head, the decoder's language model head and the last normalisation are trained.
    CycleReward (arXiv 2506.02095) trains BLIP-large with fix_rate 0.7, learning rate 2e-5, cosine without warm-up, 2
    epochs, 2,048 pairs a step, and image_weight 1 in its Combo form.

    A step holds all candidates and all pairs of its inputs: `inputs_per_step` inputs, or as many as have about
    `pairs_per_step` pairs on average. `inputs_per_pass` is how many a device reads at once, limited by its memory; the
    number of passes and workers does not change a step's result. `loss` is "bradley-terry", "margin" (with
    `margin_weight` times the margin), or "mse" (Lee et al.'s; give the head the output "sigmoid"). `image_weight` is
    the lambda of L_text + lambda * L_image. `fix_rate` freezes the embeddings and that share of the first layers of
    both towers. The frozen layers' output for each image is cached on disk in the dtype `prefix_cache`; null computes
    it in every pass. `precision` is that of training: fp32, bf16 or fp16 with weights in fp32. `save_steps` is the
    number of steps from one checkpoint to the next; null makes one after each epoch. `patience` is how many epochs
    without a better validation accuracy end the run; null trains every epoch. `pixel_cache_mb` bounds the memory for
    images whose frozen part is not kept; `loaders` is the number of processes that make batches in parallel to the
    model, which helps if a GPU would wait for images. `head` describes the head of a new reward model; training that
    starts from a reward model keeps its head.
    """

    seed: int = 0
    epochs: Annotated[int, Field(ge=1)] = 6
    inputs_per_step: Annotated[int, Field(ge=1)] = 8
    pairs_per_step: Annotated[int, Field(ge=1)] | None = None
    inputs_per_pass: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    loss: Literal["bradley-terry", "margin", "mse"] = "bradley-terry"
    margin_weight: Annotated[float, Field(ge=0)] = 1.0
    image_weight: Annotated[float, Field(ge=0)] = 1.0
    auxiliary: AuxiliarySettings | None = None
    pairs: PairSettings = PairSettings()
    fix_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    prefix_cache: Literal["float32", "float16", "bfloat16"] | None = "float16"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    save_steps: Annotated[int, Field(ge=1)] | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    pixel_cache_mb: Annotated[int, Field(ge=0)] = 512
    loaders: Annotated[int, Field(ge=0)] = 0
    head: HeadSettings = HeadSettings()

    @rule("pairs_per_step", "inputs_per_step")
    def _steps_are_said_once(self) -> Iterator[Fault]:
        if self.pairs_per_step is not None and "inputs_per_step" in self.model_fields_set:
            yield Fault(("pairs_per_step",), "give either inputs_per_step or pairs_per_step, not both")


class TrainRecipe(TrainSettings):
    """Training settings, and the start of training: a Hub id or a folder, at a revision."""

    start: Annotated[
        str, Field(description="what training starts from, a Hub id or a folder (--start, or in a recipe)")
    ]
    revision: str | None = None


def load_train_recipe(path: str | Path | None, changes: dict[str, Any] | None = None) -> TrainRecipe:
    """Read and check a recipe for training; `changes` ("head.pooling": value) replace its settings.

    Without a path all settings have their defaults, except `start`, which has none.

    Raises:
        RewardError: one message with every problem: where, what was given, what is allowed.
    """
    if path is None:
        settings = Settings("what is given", {})
    else:
        settings = read_settings(Path(path), RewardError, "cyclepref recipes")
    recipe, faults = check(TrainRecipe, settings.change(changes or {}).content)
    settings.refuse(faults, RewardError, "a valid recipe for training")
    return recipe
