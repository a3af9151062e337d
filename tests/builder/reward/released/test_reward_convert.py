"""Published checkpoints, converted, are the published models: part by part, against a second writing of these."""

import original
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms
from transformers import BertTokenizer

from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.released.checkpoint import read_weights
from cyclepref.builder.reward.released.convert import KINDS, convert

HEADS = {name: original.IMAGEREWARD_HEAD if name == "imagereward" else original.CYCLEREWARD_HEAD for name in KINDS}
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"word{n}" for n in range(53)]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def tokenizer() -> BertTokenizer:
    """58 words; the checkpoints have room for two more, as BLIP's have for [DEC] and [ENC]."""
    return BertTokenizer(vocab={word: n for n, word in enumerate([*SPECIAL, *WORDS])})


@pytest.fixture(scope="module")
def weights() -> original.Weights:
    return original.random_weights(original.CYCLEREWARD_HEAD)


@pytest.fixture(scope="module")
def model(weights) -> RewardModel:
    return convert(weights, "cyclereward-combo", tokenizer())


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Three texts of 7, 3 and 5 tokens, padded to 12 as the originals pad."""
    lengths = torch.tensor([7, 3, 5])[:, None]
    mask = (torch.arange(12) < lengths).long()
    ids = torch.randint(5, 58, (3, 12), generator=torch.Generator().manual_seed(2)) * mask
    return ids, mask


@torch.no_grad()
def test_the_patch_embedding_is_the_originals(model, weights, pixels):
    found = model.vision_model.embeddings(pixels)
    torch.testing.assert_close(found, original.patch_embedding(weights, pixels), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_block_of_the_vision_transformer_is_the_originals(model, weights, pixels, block):
    states = original.patch_embedding(weights, pixels)
    found = model.vision_model.encoder.layers[block](states)
    torch.testing.assert_close(found, original.vision_block(weights, block, states), **CLOSE)


@torch.no_grad()
def test_the_image_states_are_the_originals(model, weights, pixels):
    torch.testing.assert_close(model.encode_images(pixels), original.image_states(weights, pixels), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_a_text_layer_with_cross_attention_is_the_originals(model, weights, pixels, texts, layer):
    from cyclepref.builder.reward.backbones import blip

    ids, mask = texts
    image, states = original.image_states(weights, pixels), original.text_embedding(weights, ids)
    torch.testing.assert_close(model.text_model.embeddings(input_ids=ids), states, **CLOSE)
    keys, values = model.read_images(image)[layer]
    seen = mask.bool()[:, None, None, :]
    found = blip._layer(model.text_model.encoder.layer[layer], states, states, seen, keys, values)
    torch.testing.assert_close(found, original.text_layer(weights, layer, states, mask == 0, image), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cyclereward-combo", "imagereward"])
def test_the_head_is_the_originals(kind):
    weights = original.random_weights(HEADS[kind])
    states = torch.randn(4, 128, generator=torch.Generator().manual_seed(3))
    found = convert(weights, kind, tokenizer()).head(states)
    torch.testing.assert_close(found, original.head(weights, HEADS[kind], states), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_reward_is_the_originals(kind, pixels, texts):
    weights = original.random_weights(HEADS[kind])
    model = convert(weights, kind, tokenizer())
    expected = original.reward(weights, HEADS[kind], pixels, *texts)
    assert expected.std() > 0.05  # else equal numbers would say little
    if kind == "imagereward":
        expected = (expected - MEAN) / DEVIATION
    found = model(pixel_values=pixels, input_ids=texts[0], attention_mask=texts[1])
    torch.testing.assert_close(found, expected, **CLOSE)
    shorter = model(pixel_values=pixels, input_ids=texts[0][:, :7], attention_mask=texts[1][:, :7])
    torch.testing.assert_close(shorter, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "longest"), [("cyclereward-i2t", 40), ("imagereward", 35)])
def test_files_and_sentences_score_as_the_originals_score_them(kind, longest, tmp_path):
    """From the picture in a file to the number: resize, crop, normalise, tokenise, pad, cut."""
    weights = original.random_weights(HEADS[kind])
    model = convert(weights, kind, tokenizer())
    noise = torch.randint(0, 256, (75, 201, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    picture = Image.fromarray(noise.numpy()).resize((335, 125), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.png")
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    way = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(32, way), transforms.CenterCrop(32), transforms.ToTensor()]
    pixels = transforms.Compose([*steps, transforms.Normalize(mean, deviation)])(picture)[None]
    captions = ["word1 word2 word3", "[DEC] word5 [ENC]", " ".join(WORDS)]
    ids = [[2, 6, 7, 8, 3], [2, 58, 10, 59, 3], [2, *range(5, 3 + longest), 3]]
    for caption, tokens in zip(captions, ids, strict=True):
        padded = torch.tensor([tokens + [0] * (longest - len(tokens))])
        expected = original.reward(weights, HEADS[kind], pixels, padded, (padded > 0).long()).item()
        expected = (expected - MEAN) / DEVIATION if kind == "imagereward" else expected
        scores = model.score(images=tmp_path / "a.png", texts=caption)
        assert scores == [pytest.approx(expected, abs=1e-4)]
        assert scores.truncated == ([0] if caption is captions[2] else [])


def test_a_converted_model_is_saved_and_loaded_as_it_is(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = RewardModel.from_pretrained(tmp_path)
    picture = Image.new("RGB", (40, 60), "red")
    assert again.score(images=picture, texts=["word1", "word2"]) == model.score(
        images=picture, texts=["word1", "word2"]
    )
    assert again.config.fix_rate == 0.7


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.safetensors"])
def test_a_checkpoint_is_read_from_any_of_the_usual_files(name, weights, tmp_path):
    save_file(weights, tmp_path / name) if name == "a.safetensors" else torch.save({"model": weights}, tmp_path / name)
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    for given in (read_weights(tmp_path / name), wrapped):
        state = convert(given, "cyclereward-t2i", tokenizer()).state_dict()
        assert torch.equal(state["head.12.bias"], weights["mlp.layers.8.bias"])


def test_a_checkpoint_of_another_kind_is_refused(weights):
    with pytest.raises(RewardError, match=r"missing: head.12.bias, head.12.weight"):
        convert(weights, "imagereward", tokenizer())
    with pytest.raises(RewardError, match=r"unknown kind of checkpoint 'clip'. Choose from: cyclereward-combo"):
        convert(weights, "clip", tokenizer())


def test_a_tokenizer_of_another_model_is_refused(weights):
    more = BertTokenizer(vocab={word: n for n, word in enumerate([*SPECIAL, *WORDS, *"abcdefgh"])})
    with pytest.raises(RewardError, match="the tokenizer has 66 tokens, the checkpoint's text tower 60"):
        convert(weights, "cyclereward-combo", more)
    with pytest.raises(RewardError, match="the tokenizer has 5 tokens, the checkpoint's text tower 60"):
        convert(weights, "cyclereward-combo", BertTokenizer())
