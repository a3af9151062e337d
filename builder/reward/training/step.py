"""The rewards of a batch, and their loss."""

from typing import Any

import torch
from torch import nn

from cyclepref.builder.reward.training import losses
from cyclepref.builder.reward.training.frozen_layers import Half, finish_images, finish_texts
from cyclepref.builder.reward.training.settings import TrainSettings

Batch = dict[str, torch.Tensor]


class TrainingView(nn.Module):
    """A reward model for training: calling it with a batch of `Collate` gives the batch's rewards.

    `image_half` and `text_half` are the frozen halves of its towers, whose output batches may hold.
    """

    def __init__(self, reward: Any, image_half: Half | None = None, text_half: Half | None = None):
        super().__init__()
        self.reward, self.image_half, self.text_half = reward, image_half, text_half

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        """Rewards of all candidates, and of all perturbed rows."""
        model = self.reward
        if "image_prefix" in batch:
            images = finish_images(model, self.image_half, batch["image_prefix"].to(model.dtype))
        else:
            images = model.encode_images(batch["pixel_values"].to(model.dtype))
        texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
        index = {name: batch[name] for name in ("image_index", "text_index")}
        if model.backbone.joint:
            return model.rewards(model.read_images(images), **texts, **index)
        if "text_prefix" in batch:
            prefix = batch["text_prefix"].to(model.dtype)
            read = finish_texts(model, self.text_half, prefix, texts["input_ids"])
        else:
            read = model.backbone.encode_texts(model, **texts)
        return model.output(model.backbone.join(images, read, **index), 0.0)


def counts(batch: Batch) -> torch.Tensor:
    """The numbers of text pairs, image pairs and examples of the auxiliary loss in a batch: (3,)."""
    examples = len(batch["examples"]) if "examples" in batch else 0
    images = int(batch["of_images"].sum())
    return torch.tensor([len(batch["of_images"]) - images, images, examples])


def loss_of(rewards: torch.Tensor, batch: Batch, settings: TrainSettings, of: torch.Tensor) -> torch.Tensor:
    """The loss of one pass as its share of a step; `of` are the step's numbers of pairs and examples (see `counts`).

    The shares of a step's passes add up to the loss of the whole step.
    """
    rewards = rewards.float()
    chosen, rejected = rewards[batch["chosen"]], rewards[batch["rejected"]]
    if settings.loss == "bradley-terry":
        each = losses.bradley_terry(chosen, rejected)
    elif settings.loss == "margin":
        each = losses.margin_bradley_terry(chosen, rejected, batch["margin"], settings.margin_weight)
    else:
        each = losses.binary_mse(chosen, rejected)
    loss = losses.combo(each, batch["of_images"], settings.image_weight, of[:2])
    if settings.auxiliary is not None and len(batch["examples"]):
        places = batch["examples"]
        of_texts = rewards[places.clamp(min=0)].masked_fill(places < 0, float("-inf"))
        picked = losses.prompt_classification(of_texts, settings.auxiliary.temperature)
        loss = loss + settings.auxiliary.weight * picked.sum() / of[2]
    # A pass without pairs still takes part in the step, since workers wait for each other's gradients.
    return loss + 0 * rewards.sum()
