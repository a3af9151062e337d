"""The likelihood of a text given an image, of every captioner family of the catalog, against decoding step by step."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_captioners import FAMILIES, save

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.metrics.likelihood import Likelihood
from cyclepref.builder.models.loading import ModelError, quiet
from cyclepref.schemas.direct_specs import LikelihoodSpec
from cyclepref.schemas.specs import CaptionerSpec

TEXT = "a red dog on green grass"
TEXTS = [TEXT, "two blue circle", TEXT, "sky", "a small square near a cat"]
IMAGES = [
    Image.effect_mandelbrot(size, (-2 + at / 4, -1.5, 1, 1.5 - at / 5), 20 + at).convert("RGB").rotate(50 * at)
    for at, size in enumerate([(40, 40), (90, 30), (30, 90), (64, 48), (33, 71)])
]


def likelihood_of(name: str, folder: Path, **changes) -> Likelihood:
    repo, settings = save(name, folder)
    model = CaptionerSpec(name=name, repo=repo, batch_size=5, **settings)
    named = {"name": "likelihood", "modality": "text", "higher_is_better": True, "low": -100, "high": 0}
    return load_metric(LikelihoodSpec(**{**named, "batch_size": 5, **changes}, model=model))


class Dictated(LogitsProcessor):
    """Makes `generate` write given tokens, and keeps the log-probability that the model gave to each."""

    def __init__(self, tokens: torch.Tensor):
        self.tokens, self.given, self.said = tokens, None, []

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        self.given = ids.shape[1] if self.given is None else self.given
        at = ids.shape[1] - self.given
        if at >= self.tokens.shape[1]:
            return logits
        wanted = self.tokens[:, at : at + 1]
        self.said.append(logits.log_softmax(-1).gather(1, wanted))
        return torch.full_like(logits, -1e9).scatter(1, wanted, 0.0)


def said_of(metric: Likelihood, text: str, images: list[Image.Image]) -> torch.Tensor:
    """The log-probability of each token of a text, shape (images, tokens), by the model's own `generate`, which knows
    its family's prompt and first tokens."""
    captioner = metric._captioner
    ids = captioner.tokenizer(text, add_special_tokens=False)["input_ids"]
    writing = Dictated(torch.tensor([ids] * len(images)))
    captioner.model.generate(
        **captioner.prepare(images), do_sample=False, num_beams=1, max_new_tokens=len(ids) + 2,
        logits_processor=LogitsProcessorList([writing]),
    )  # fmt: skip
    return torch.cat(writing.said, 1)


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    quiet()


@pytest.mark.parametrize("name", FAMILIES)
def test_one_forward_pass_gives_what_writing_the_text_step_by_step_gives(name, tmp_path):
    metric = likelihood_of(name, tmp_path)
    found = metric.compare([TEXT] * 5, IMAGES)
    assert found == pytest.approx(said_of(metric, TEXT, IMAGES).mean(1).tolist(), abs=1e-5)
    assert max(found) - min(found) > 1e-4, "another image gives another likelihood"


@pytest.mark.parametrize("name", ["llava", "blip"])
def test_a_value_depends_neither_on_its_batch_nor_on_the_order(name, tmp_path):
    metric = likelihood_of(name, tmp_path)
    together = metric.compare(TEXTS, IMAGES)
    assert metric.compare(TEXTS[::-1], IMAGES[::-1])[::-1] == pytest.approx(together, abs=1e-6)
    alone = [metric.compare([text], [image])[0] for text, image in zip(TEXTS, IMAGES, strict=True)]
    assert alone == pytest.approx(together, abs=1e-6)
    metric.spec = metric.spec.model_copy(update={"batch_size": 2})
    assert metric.compare(TEXTS, IMAGES) == pytest.approx(together, abs=1e-5)


def test_the_prompts_own_tokens_do_not_count(tmp_path):
    """A hand computation: the log-probabilities at the places of the answer, in one pass over prompt and answer."""
    metric = likelihood_of("llava", tmp_path)
    captioner = metric._captioner
    prompt = captioner.prepare(IMAGES[:1])
    answer = torch.tensor([captioner.tokenizer(TEXT, add_special_tokens=False)["input_ids"]])
    ids = torch.cat([prompt["input_ids"], answer], 1)
    with torch.inference_mode():
        logits = captioner.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=prompt["pixel_values"]
        ).logits
    said = logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    assert metric.compare([TEXT], IMAGES[:1])[0] == pytest.approx(said[-answer.shape[1] :].mean().item(), abs=1e-5)


def test_without_the_logarithm_it_is_the_mean_probability_of_the_same_tokens(tmp_path):
    metric = likelihood_of("llava", tmp_path, logarithm=False, low=0, high=1)
    writing = said_of(metric, TEXT, IMAGES)
    assert metric.compare([TEXT] * 5, IMAGES) == pytest.approx(writing.exp().mean(1).tolist(), abs=1e-6)


def test_what_is_less_likely_than_the_range_allows_is_brought_to_it(tmp_path):
    assert likelihood_of("blip", tmp_path, low=-1e-3).compare([TEXT], IMAGES[:1]) == [-1e-3]


def test_a_likelihood_without_a_captioner_is_refused():
    with pytest.raises(ModelError, match=r"name one in settings.model, or use it in a t2i2t recipe"):
        load_metric(CATALOG["backward-likelihood"])
