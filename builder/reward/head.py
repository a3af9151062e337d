"""The head: from the state of an image and a text to one number."""

from itertools import pairwise

import torch
from torch import nn
from transformers import BlipTextConfig
from transformers.activations import ACT2FN
from transformers.models.blip.modeling_blip_text import BlipTextPredictionHeadTransform

from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.errors import RewardError


def make_head(config: RewardConfig, width: int) -> nn.Sequential:
    """An MLP from (n, width) to (n, 1), with `head_sizes` between; the last layer is linear.

    Raises:
        RewardError: if transformers does not have the activation.
    """
    if config.head_activation not in ACT2FN:
        raise RewardError(
            f"unknown head_activation {config.head_activation!r}. Choose from: {', '.join(sorted(ACT2FN))}"
        )
    sizes, layers = [width, *config.head_sizes], []
    for (before, size), dropout in zip(pairwise(sizes), config.head_dropouts, strict=True):
        layers += [nn.Linear(before, size), ACT2FN[config.head_activation], nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


class Likelihood(nn.Module):
    """The caption decoder's language model head, used as a score; its output embeddings are the input embeddings."""

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
