"""Metrics that compare an input with its reconstruction: SBERT for texts; LPIPS, DreamSim, embeddings for images.
Two compare it with the candidate itself, by a backward model: a captioner's likelihood, a pipeline's denoising loss."""

from typing import Any, Protocol

from cyclepref.schemas.specs import MetricSpec


class Metric(Protocol):
    """A similarity or a distance; its direction is in its spec."""

    def compare(self, inputs: list[Any], reconstructions: list[Any]) -> list[float]:
        """One value for each pair, in order; the items are texts or RGB images, by the spec's modality. A direct metric
        is given candidates, of the other modality, in the place of reconstructions."""


def load_metric(spec: MetricSpec) -> Metric:
    """The metric of a spec; its libraries are imported only now."""
    if spec.kind == "sbert":
        from cyclepref.builder.metrics.sbert import Sbert

        return Sbert(spec)
    if spec.kind == "lpips":
        from cyclepref.builder.metrics.lpips import Lpips

        return Lpips(spec)
    if spec.kind == "likelihood":
        from cyclepref.builder.metrics.likelihood import Likelihood

        return Likelihood(spec)
    if spec.kind == "denoising-loss":
        from cyclepref.builder.metrics.denoising import DenoisingLoss

        return DenoisingLoss(spec)
    if spec.kind == "dreamsim":
        from cyclepref.builder.metrics.dreamsim import DreamSim

        return DreamSim(spec)
    from cyclepref.builder.metrics.embedding import ImageEmbedding

    return ImageEmbedding(spec)
