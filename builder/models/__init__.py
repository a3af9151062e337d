"""Captioners and text-to-image pipelines.

Two operations on content: `caption(image) -> text` and `paint(text) -> image`. Both return one output for each item of
a batch, in order.
"""

from cyclepref.builder.models.protocols import Captioner, TextToImage
from cyclepref.schemas.specs import CaptionerSpec, EndpointSpec, GeneratorSpec


def load_model(spec: GeneratorSpec) -> Captioner | TextToImage:
    """The model of a spec; torch, transformers and diffusers are imported only now."""
    if isinstance(spec, EndpointSpec):
        from cyclepref.builder.models.endpoint import Endpoint

        return Endpoint(spec)
    if isinstance(spec, CaptionerSpec):
        from cyclepref.builder.models.captioners import TransformersCaptioner

        return TransformersCaptioner(spec)
    from cyclepref.builder.models.painters import DiffusersPipeline

    return DiffusersPipeline(spec)
