"""The two cycles, as two rows of one table: the same code with the modalities swapped."""

from dataclasses import dataclass
from typing import Literal

Modality = Literal["image", "text"]
ModelKind = Literal["captioner", "text-to-image"]

# The longest prompt or caption that is accepted: far more than the few hundred tokens that text encoders read. A limit
# is needed because some tokenizers take quadratic time.
MAX_CHARACTERS = 20_000

# The modality that a model reads names its kind, since every generation turns one modality into the other.
READS: dict[Modality, ModelKind] = {"image": "captioner", "text": "text-to-image"}


@dataclass(frozen=True)
class Cycle:
    """input x -> candidate y = F(x) -> reconstruction x' = G(y); a metric compares x with x'."""

    name: str
    input: Modality
    candidate: Modality

    @property
    def forward_kind(self) -> ModelKind:
        """Kind of the models F that make candidates."""
        return READS[self.input]

    @property
    def backward_kind(self) -> ModelKind:
        """Kind of the model G that makes reconstructions."""
        return READS[self.candidate]


CYCLES = {
    "i2t2i": Cycle("i2t2i", input="image", candidate="text"),
    "t2i2t": Cycle("t2i2t", input="text", candidate="image"),
}
