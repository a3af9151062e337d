"""Dual encoders: CLIP and SigLIP with an MLP on both embeddings."""

import pytest
import torch
from plain_colours import COLOURS, caption, picture
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from cyclepref.builder.reward.config import LEE_2023, RewardConfig
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.preprocess import pixels, tokens

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "plain", "shade", "of", *COLOURS)
IMAGES = [picture(colour, seed) for seed, colour in enumerate(COLOURS)]
TEXTS = [caption(colour) for colour in COLOURS]
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"image_size": 16, "patch_size": 8, **WIDTH}
# SigLIP fills up with its end token, whose id is not the first.
TEXT = {"vocab_size": len(WORDS), "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 3, **WIDTH}


def tokenizer(pad: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
    )


@pytest.fixture(scope="module", params=["clip", "siglip"])
def pretrained(request, tmp_path_factory):
    """A folder with a tiny dual encoder and its processor, and the encoder."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "clip":
        text = {"pad_token_id": 0, **TEXT}
        whole = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
        images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        CLIPProcessor(images, tokenizer("[PAD]")).save_pretrained(folder)
    else:
        whole = SiglipModel(SiglipConfig(text_config={"pad_token_id": 3, **TEXT}, vision_config=VISION))
        SiglipProcessor(SiglipImageProcessor(size={"height": 16, "width": 16}), tokenizer("[SEP]")).save_pretrained(
            folder
        )
    whole.save_pretrained(folder)
    return folder, whole.eval()


@pytest.fixture(scope="module")
def model(pretrained) -> RewardModel:
    torch.manual_seed(1)
    return RewardModel.from_backbone(pretrained[0], head_sizes=(16, 8), head_activation="relu")


@torch.no_grad()
def test_the_head_reads_the_embeddings_of_the_pretrained_model(model, pretrained):
    folder, whole = pretrained
    pixel_values = pixels(model.processor, IMAGES)
    options = {"padding": "max_length", "max_length": 12, "return_tensors": "pt"}
    given = AutoProcessor.from_pretrained(folder).tokenizer(TEXTS, **options)
    ids = {"input_ids": given["input_ids"]}
    images, texts = whole.get_image_features(pixel_values).pooler_output, whole.get_text_features(**ids).pooler_output
    expected = model.head(torch.cat([images, texts], -1)).squeeze(-1).tolist()
    assert model.score(images=IMAGES, texts=TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_saved_model_scores_as_before_and_opens_with_the_librarys_own_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    before = model.score(images=IMAGES, texts=TEXTS)
    assert RewardModel.from_pretrained(tmp_path).score(images=IMAGES, texts=TEXTS) == before
    assert isinstance(AutoModel.from_pretrained(tmp_path), RewardModel)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(model.processor)


def test_each_distinct_image_and_text_is_encoded_once_in_a_call(model):
    seen: dict[str, int] = {"vision": 0, "text": 0}

    def count(side, name):
        def hook(module, args, kwargs):
            seen[side] += len(kwargs[name])

        return hook

    handles = [
        model.vision_model.register_forward_pre_hook(count("vision", "pixel_values"), with_kwargs=True),
        model.text_model.register_forward_pre_hook(count("text", "input_ids"), with_kwargs=True),
    ]
    images, texts = [*IMAGES, *IMAGES[::-1]], [*TEXTS, *TEXTS]
    scores = model.score(images=images, texts=texts, batch_size=3)
    for handle in handles:
        handle.remove()
    assert seen == {"vision": 4, "text": 4}
    alone = [model.score(images=image, texts=text)[0] for image, text in zip(images, texts, strict=True)]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 6) for score in scores}) == 8


def test_a_score_does_not_depend_on_the_lengths_beside_it(model):
    short, long = "red", "a plain picture of a shade of green"
    alone = model.score(images=IMAGES[0], texts=short)[0]
    assert model.score(images=IMAGES[0], texts=[long, short])[1] == pytest.approx(alone, abs=1e-5)


def test_indices_pair_images_and_texts_and_pixels_have_gradients(model):
    pixel_values = pixels(model.processor, IMAGES[:2]).requires_grad_()
    inputs = tokens(model.processor, TEXTS[:2], 12)
    index = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    rewards = model(pixel_values=pixel_values, **inputs, image_index=index[0], text_index=index[1])
    expected = model.score(images=[IMAGES[0], IMAGES[0], IMAGES[1]], texts=[TEXTS[0], TEXTS[1], TEXTS[1]])
    assert rewards.tolist() == pytest.approx(expected, abs=1e-5)
    rewards.sum().backward()
    assert (pixel_values.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("fix_rate", [0.0, 0.5, 1.0])
def test_freezing_keeps_the_first_layers_and_at_1_both_towers(model, fix_rate):
    model.freeze(fix_rate)
    for tower in (model.vision_model, model.text_model):
        frozen = [not any(weight.requires_grad for weight in layer.parameters()) for layer in tower.encoder.layers]
        assert frozen == [True] * int(2 * fix_rate) + [False] * (2 - int(2 * fix_rate))
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert fix_rate < 1 or {name.split(".")[0] for name in learning} == {"head"}
    assert model.config.fix_rate == fix_rate


def test_the_form_of_lee_et_al_gives_probabilities(pretrained):
    model = RewardModel.from_backbone(pretrained[0], **LEE_2023)
    scores = model.score(images=IMAGES, texts=TEXTS)
    assert all(0 < score < 1 for score in scores)
    sizes = [layer.out_features for layer in model.head if isinstance(layer, torch.nn.Linear)]
    assert sizes == [1024, 1024, 1]
    assert model.max_text_length == 12  # the tower reads no more


@pytest.mark.parametrize("kind", ["blip", "clip", "siglip"])
def test_a_small_config_makes_a_model_with_random_weights(kind):
    pads = {"pad_token_id": 0, "sep_token_id": 3} if kind == "blip" else {"pad_token_id": 0}
    model = RewardModel(RewardConfig(backbone=kind, text_config={**TEXT, **pads}, vision_config=VISION, head_sizes=[4]))
    again = RewardConfig.from_dict(model.config.to_dict())
    assert type(again.text_config) is type(model.config.text_config)
    assert again.text_config.hidden_size == 32
    texts = {"input_ids": torch.tensor([[2, 5, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert model.eval()(pixel_values=torch.zeros(1, 3, 16, 16), **texts).isfinite().all()


def test_a_folder_without_all_weights_is_no_start(pretrained, tmp_path):
    _, whole = pretrained
    state = {name: weight for name, weight in whole.state_dict().items() if "layers.1.mlp.fc1.weight" not in name}
    whole.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(RewardError, match=r"missing: .*layers.1.mlp.fc1.weight"):
        RewardModel.from_backbone(tmp_path)
