import pytest
import torch
from plain_colours import COLOURS, caption, picture
from safetensors import safe_open
from transformers import AutoConfig, BertConfig, BertModel, BlipForConditionalGeneration, BlipForImageTextRetrieval

from cyclepref.builder.reward.model import RewardConfig, RewardModel
from cyclepref.builder.reward.preprocess import pixels, tokens

IMAGES = [picture(colour, seed) for seed, colour in enumerate(COLOURS)]
TEXTS = [caption(colour) for colour in COLOURS]


@pytest.fixture(scope="module")
def model(captioner):
    torch.manual_seed(1)
    return RewardModel.from_captioner(captioner, head_sizes=[16, 4])


def test_a_saved_model_scores_as_before(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = RewardModel.from_pretrained(tmp_path)
    assert again.score(images=IMAGES, texts=TEXTS) == model.score(images=IMAGES, texts=TEXTS)
    assert sorted(path.suffix for path in tmp_path.glob("model.*")) == [".safetensors"]


def test_the_towers_are_those_of_the_captioner(model, captioner):
    source = BlipForConditionalGeneration.from_pretrained(captioner)
    pixel_values = pixels(model.processor, IMAGES)
    with torch.no_grad():
        expected = source.vision_model(pixel_values).last_hidden_state
        assert torch.equal(model.encode_images(pixel_values), expected)
    for name, weight in source.text_decoder.bert.state_dict().items():
        assert torch.equal(model.text_model.state_dict()[name], weight), name


def test_an_image_text_matcher_is_a_start_as_well(captioner, tmp_path):
    torch.manual_seed(0)
    matcher = BlipForImageTextRetrieval(BlipForConditionalGeneration.from_pretrained(captioner).config)
    matcher.save_pretrained(tmp_path)
    RewardModel.from_captioner(captioner).processor.save_pretrained(tmp_path)
    model = RewardModel.from_backbone(tmp_path, head_sizes=[])
    inputs, pixel_values = tokens(model.processor, TEXTS, 16), pixels(model.processor, IMAGES)
    with torch.no_grad():
        expected = matcher.eval()(pixel_values=pixel_values, **inputs).itm_score[:, 1].tolist()
        model.head[0].weight.copy_(matcher.itm_head.weight[1:])
        model.head[0].bias.copy_(matcher.itm_head.bias[1:])
    assert model.score(images=IMAGES, texts=TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_half_precision_captioner_is_trained_in_single_precision(captioner, tmp_path):
    half = BlipForConditionalGeneration.from_pretrained(captioner, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    model = RewardModel.from_captioner(captioner)
    model.processor.save_pretrained(tmp_path / "half")
    from_half = RewardModel.from_captioner(tmp_path / "half")
    assert {weight.dtype for weight in from_half.parameters()} == {torch.float32}
    from_half.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float32}  # noqa: SIM118


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_a_score_does_not_depend_on_its_batch(captioner, pooling):
    model = RewardModel.from_captioner(captioner, pooling=pooling)
    texts = ["red", "a plain picture of a shade of green", "a picture of blue", "white"]
    together = model.score(images=IMAGES, texts=texts)
    alone = [model.score(images=image, texts=text)[0] for image, text in zip(IMAGES, texts, strict=True)]
    small = model.score(images=IMAGES, texts=texts, batch_size=3)
    assert together == pytest.approx(alone, abs=1e-5)
    assert together == pytest.approx(small, abs=1e-5)
    assert len(set(together)) == 4


def test_a_score_depends_on_the_image_and_on_the_text(model):
    assert len({round(score, 6) for score in model.score(images=IMAGES, texts=TEXTS[0])}) == len(IMAGES)
    assert len({round(score, 6) for score in model.score(images=IMAGES[0], texts=TEXTS)}) == len(TEXTS)


def test_each_distinct_image_is_encoded_once_in_a_call(model):
    encoded = []
    handle = model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    images = [IMAGES[0], IMAGES[1], IMAGES[0].copy(), IMAGES[1], IMAGES[0]]
    grouped = model.score(images=images, texts=[*TEXTS, TEXTS[0]], batch_size=2)
    handle.remove()
    assert sum(encoded) == 2
    assert grouped[0] == pytest.approx(grouped[4], abs=1e-5)


def test_paths_score_as_the_pictures_in_them(model, tmp_path):
    IMAGES[0].save(tmp_path / "a.png")
    expected = model.score(images=IMAGES[0], texts=TEXTS)
    assert model.score(images=tmp_path / "a.png", texts=TEXTS) == expected
    assert model.score(images=str(tmp_path / "a.png"), texts=TEXTS) == expected


def test_ranking_puts_the_largest_reward_first(model):
    ranking = model.rank(prompt=TEXTS[0], images=IMAGES)
    assert ranking.rewards == model.score(images=IMAGES, texts=TEXTS[0])
    assert [ranking.rewards[i] for i in ranking.order] == sorted(ranking.rewards, reverse=True)
    captions = model.rank_captions(image=IMAGES[0], texts=TEXTS)
    assert captions.rewards == model.score(images=IMAGES[0], texts=TEXTS)
    assert captions.rewards[captions.order[0]] == max(captions.rewards)


def test_the_reward_is_differentiable_with_respect_to_the_pixels(model):
    pixel_values = pixels(model.processor, IMAGES).requires_grad_()
    model(pixel_values=pixel_values, **tokens(model.processor, TEXTS, 16)).sum().backward()
    assert (pixel_values.grad.flatten(1).abs().sum(1) > 0).all()


def test_the_output_is_normalised_with_the_mean_and_deviation_of_the_config(model, tmp_path):
    raw = model.score(images=IMAGES, texts=TEXTS)
    model.save_pretrained(tmp_path)
    normalised = RewardModel.from_pretrained(tmp_path, reward_mean=0.167, reward_std=1.033)
    expected = [(score - 0.167) / 1.033 for score in raw]
    assert normalised.score(images=IMAGES, texts=TEXTS) == pytest.approx(expected, abs=1e-6)


def test_a_text_is_as_likely_as_the_captioner_says(captioner):
    source = BlipForConditionalGeneration.from_pretrained(captioner)
    model = RewardModel.from_captioner(captioner, pooling="mean", text_mask="causal", likelihood_weight=2.0)
    texts = ["red", "a plain picture of a shade of green", "a picture of blue", "white"]
    expected = []
    for image, text in zip(IMAGES, texts, strict=True):
        inputs = tokens(model.processor, [text], 16)
        with torch.no_grad():
            loss = source(pixel_values=pixels(model.processor, [image]), labels=inputs["input_ids"], **inputs).loss
        expected.append(-2.0 * loss.item())
    assert model.score(images=IMAGES, texts=texts) == pytest.approx(expected, abs=1e-5)


def test_a_model_with_a_likelihood_is_saved_whole(captioner, tmp_path):
    model = RewardModel.from_captioner(captioner, pooling="last", text_mask="causal", likelihood_weight=2.0)
    torch.nn.init.normal_(model.likelihood.bias)
    model.save_pretrained(tmp_path)
    again = RewardModel.from_pretrained(tmp_path)
    assert again.score(images=IMAGES, texts=TEXTS) == model.score(images=IMAGES, texts=TEXTS)


@pytest.mark.parametrize(("fix_rate", "layers"), [(0.0, 0), (0.5, 1), (0.7, 1), (1.0, 2)])
def test_freezing_keeps_the_first_layers_of_both_towers(captioner, fix_rate, layers):
    model = RewardModel.from_captioner(captioner)
    model.freeze(fix_rate)
    for tower in (model.vision_model.encoder.layers, model.text_model.encoder.layer):
        frozen = [not any(weight.requires_grad for weight in layer.parameters()) for layer in tower]
        assert frozen == [True] * layers + [False] * (2 - layers)
    assert all(weight.requires_grad for weight in model.head.parameters())
    assert model.text_model.embeddings.word_embeddings.weight.requires_grad == (fix_rate == 0)


def test_a_text_that_is_too_long_is_cut_and_reported(model, caplog):
    scores = model.score(images=IMAGES[0], texts=["red " * 100_000, "red " * 14])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert "1 of 2 texts were cut to 16 tokens" in caplog.text


def test_counts_of_images_and_texts_must_fit(model):
    with pytest.raises(ValueError, match="got 2 images and 3 texts"):
        model.score(images=IMAGES[:2], texts=TEXTS[:3])
    with pytest.raises(ValueError, match="got 0 images and 1 texts"):
        model.score(images=[], texts=TEXTS[0])
    with pytest.raises(TypeError, match="an image must be a PIL image, the path"):
        model.score(images=[3.0], texts=TEXTS[0])
    with pytest.raises(FileNotFoundError):
        model.score(images="nowhere.png", texts=TEXTS[0])


def test_a_captioner_of_another_architecture_is_refused(tmp_path):
    width = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(vocab_size=8, **width)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"starts from a BLIP captioner.*is 'bert'"):
        RewardModel.from_captioner(tmp_path)


def test_a_config_that_reads_no_text_is_refused(captioner):
    with pytest.raises(ValueError, match="sees no text"):
        RewardModel.from_captioner(captioner, pooling="first", text_mask="causal")
    with pytest.raises(ValueError, match=r"likelihood_weight 1.0 needs text_mask 'causal'"):
        RewardModel.from_captioner(captioner, likelihood_weight=1.0)
    with pytest.raises(ValueError, match="reward_std must be positive"):
        RewardModel.from_captioner(captioner, reward_std=0.0)


def test_the_config_is_known_by_its_type(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), RewardConfig)
