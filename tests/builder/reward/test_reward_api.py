"""What people call: any kind of image, one or many, what is wrong with what is given."""

import logging

import numpy as np
import pytest
import torch
from plain_colours import COLOURS, caption, picture
from safetensors.torch import load_file, save_file

from cyclepref.builder.common.images import UnreadableImage
from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.errors import ImageNotFound, RewardError, WrongType
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.preprocess import pixels, tokens
from cyclepref.builder.reward.scoring import _batches

IMAGES = [picture(colour, seed) for seed, colour in enumerate(COLOURS)]
TEXTS = [caption(colour) for colour in COLOURS]


@pytest.fixture(scope="module")
def model(captioner):
    torch.manual_seed(1)
    return RewardModel.from_captioner(captioner, head_sizes=[16, 4])


@pytest.fixture
def fresh(captioner):
    torch.manual_seed(1)
    return RewardModel.from_captioner(captioner, head_sizes=[16, 4])


@torch.no_grad()
@pytest.mark.parametrize("text_mask", ["bidirectional", "causal"])
def test_shared_keys_and_values_read_texts_as_the_librarys_own_text_model_does(captioner, text_mask):
    model = RewardModel.from_captioner(captioner, pooling="mean", text_mask=text_mask, head_sizes=[])
    texts = ["red", "a plain picture of a shade of green", "a picture of blue", "white"]
    inputs, index = tokens(model.processor, texts, 16), torch.tensor([1, 0, 1, 2])
    states = model.encode_images(pixels(model.processor, IMAGES))
    own = model.text_model(
        **inputs, encoder_hidden_states=states[index], is_decoder=text_mask == "causal", use_cache=False
    ).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    expected = model.head((own * mask).sum(1) / mask.sum(1)).squeeze(-1)
    torch.testing.assert_close(model(image_states=states, image_index=index, **inputs), expected, atol=1e-5, rtol=0)


def test_paths_pictures_arrays_and_tensors_are_one_image(model, tmp_path):
    image = picture("red", 7)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), image, image.convert("RGBA"), array, array / 255]
    given += [(array / 255).astype(np.float32), tensor, tensor / 255, (tensor / 255).double()]
    scores = model.score(images=given, texts=TEXTS[0])
    assert scores == pytest.approx([scores[0]] * len(given), abs=1e-5)
    assert model.score(images=torch.stack([tensor, tensor]), texts=TEXTS[0]) == pytest.approx(scores[:2], abs=1e-5)
    assert model.score(images=array, texts=TEXTS[0]) == pytest.approx(scores[:1], abs=1e-5)


def test_arrays_of_other_values_or_shapes_are_refused(model):
    for wrong, message in [
        (np.full((4, 4, 3), 2.0), "bytes, or floats from 0 to 1; got float64 from 2 to 2"),
        (np.full((4, 4, 3), np.nan), "floats from 0 to 1"),
        (np.zeros((4, 4, 3), np.int64), "got int64"),
        (np.zeros((3, 4, 4), np.uint8), r"\(height, width, 3\) or \(height, width\), got \(3, 4, 4\)"),
        (torch.zeros(4, 4, 3), r"\(3, height, width\), got \(4, 4, 3\)"),
        (torch.full((3, 4, 4), -1.0), "`reward_of_pixels`"),
    ]:
        with pytest.raises(RewardError, match=message):
            model.score(images=wrong, texts="red")


def test_what_is_no_image_or_no_text_is_one_clear_error(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(UnreadableImage, match=r"a.png: not a picture"):
        model.score(images=tmp_path / "a.png", texts="red")
    with pytest.raises(ImageNotFound, match="no such image"):
        model.score(images=tmp_path / "b.png", texts="red")
    with pytest.raises(RewardError, match="cannot read the image"):
        model.score(images=tmp_path, texts="red")
    with pytest.raises(WrongType, match="a text must be a str, got int: 3"):
        model.score(images=IMAGES[0], texts=["red", 3])
    for images, texts in (([], TEXTS), (IMAGES, []), ([], [])):
        with pytest.raises(RewardError, match=r"got \d images and \d texts"):
            model.score(images=images, texts=texts)
    with pytest.raises(RewardError, match="batch_size must be positive, got 0"):
        model.score(images=IMAGES, texts=TEXTS, batch_size=0)


def test_truncated_texts_are_a_field_of_the_result_and_a_warning(model, caplog):
    texts = ["red " * 100_000, "red", "red " * 14, "blue " * 15]
    with caplog.at_level(logging.WARNING):
        scores = model.score(images=IMAGES[0], texts=texts)
    assert scores.truncated == [0, 3]
    assert "2 of 4 texts were cut to 16 tokens" in caplog.text
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert model.rank_captions(image=IMAGES[0], texts=texts).truncated == [0, 3]


def test_the_texts_of_many_images_stay_with_them_whatever_the_batch(model):
    images = [IMAGES[at % 4] for at in range(13)]
    texts = [["red", "a picture of blue", "a plain picture of a shade of green"][at % 3] for at in range(13)]
    expected = [model.score(images=image, texts=text)[0] for image, text in zip(images, texts, strict=True)]
    done: list[int] = []
    for batch_size in (1, 2, 5, 64):
        found = model.score(images=images, texts=texts, batch_size=batch_size, tick=done.append)
        assert found == pytest.approx(expected, abs=1e-5)
    assert sum(done) == 4 * 13


def test_batches_hold_every_pair_once_and_little_padding():
    lengths = sorted([5, 6, 7, 60, 62, 62, 64, 66, 70, 70] * 3)
    for free in (0, 32, 4096):
        batches = list(_batches(list(range(30)), lengths, 8, free))
        assert [pair for batch in batches for pair in batch] == list(range(30))
        for batch in batches:
            real = sum(lengths[pair] for pair in batch)
            assert len(batch) <= 8
            assert len(batch) * lengths[batch[-1]] - real <= real / 16 + free
    assert len(batches) == 4  # as few as can be where padding is free


def test_rewards_of_pixels_have_gradients_and_take_any_dtype(model):
    values = pixels(model.processor, IMAGES)
    expected = model.score(images=IMAGES, texts=TEXTS[0])
    for given in (values, values.double()):
        given.requires_grad_()
        rewards = model.reward_of_pixels(pixel_values=given, texts=TEXTS[0])
        assert rewards.tolist() == pytest.approx(expected, abs=1e-5)
        rewards.sum().backward()
        assert given.grad.dtype == given.dtype
        assert (given.grad.flatten(1).abs().sum(1) > 0).all()
    assert model.reward_of_pixels(pixel_values=values, texts=TEXTS).tolist() == pytest.approx(
        model.score(images=IMAGES, texts=TEXTS), abs=1e-5
    )
    with pytest.raises(RewardError, match="got 4 images and 2 texts"):
        model.reward_of_pixels(pixel_values=values, texts=TEXTS[:2])
    with pytest.raises(RewardError, match=r"got torch.uint8 \(4, 3, 16, 16\)"):
        model.reward_of_pixels(pixel_values=values.byte(), texts=TEXTS)


def test_a_gradient_is_what_a_small_step_changes(model):
    values = pixels(model.processor, IMAGES[:1]).requires_grad_()
    reward = model.reward_of_pixels(pixel_values=values, texts=TEXTS[1])
    (gradient,) = torch.autograd.grad(reward.sum(), values)
    with torch.no_grad():
        step = 1e-2 * gradient / gradient.norm()
        sides = [model.reward_of_pixels(pixel_values=values + way * step, texts=TEXTS[1]) for way in (1, -1)]
    assert (sides[0] - sides[1]).item() / 2e-2 == pytest.approx(gradient.norm().item(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_dtype_scores_and_its_head_may_differ(fresh, dtype):
    expected = fresh.score(images=IMAGES, texts=TEXTS)
    fresh.to(dtype)
    assert fresh.score(images=IMAGES, texts=TEXTS) == pytest.approx(expected, abs=0.05)
    fresh.head.float()
    assert fresh.score(images=IMAGES, texts=TEXTS) == pytest.approx(expected, abs=0.05)


def test_a_model_in_training_scores_without_dropout_and_goes_on_training(captioner):
    torch.manual_seed(1)
    model = RewardModel.from_captioner(captioner, head_sizes=[16], head_dropout=0.5)
    expected = model.score(images=IMAGES, texts=TEXTS)
    model.train()
    assert model.score(images=IMAGES, texts=TEXTS) == expected
    assert model.training


def test_a_reward_that_is_no_number_is_an_error(fresh):
    torch.nn.init.constant_(fresh.head[-1].bias, torch.nan)
    with pytest.raises(RewardError, match=r"the reward of pair 0 is nan \(4 of 4"):
        fresh.score(images=IMAGES, texts=TEXTS)


def test_the_best_k_come_first_and_k_must_fit(model):
    found = model.best_of_n(k=2, images=IMAGES, texts=TEXTS[0])
    assert found.order == model.rank(prompt=TEXTS[0], images=IMAGES).order[:2]
    assert model.best_of_n(images=IMAGES[0], texts=TEXTS).order == [
        model.rank_captions(image=IMAGES[0], texts=TEXTS).order[0]
    ]
    for k in (0, 5):
        with pytest.raises(RewardError, match=f"k must be between 1 and the 4 candidates, got {k}"):
            model.best_of_n(k=k, images=IMAGES, texts=TEXTS[0])
    with pytest.raises(RewardError, match="got 4 images and 4 texts"):
        model.best_of_n(images=IMAGES, texts=TEXTS)


def test_a_folder_that_is_no_whole_reward_model_is_refused(model, captioner, tmp_path):
    with pytest.raises(RewardError, match="is not a reward model but 'blip'"):
        RewardModel.from_pretrained(captioner)
    with pytest.raises(RewardError, match="no model that transformers can read"):
        RewardModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = {name: weight for name, weight in weights.items() if name != "head.0.bias"}
    save_file(missing, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RewardError, match=r"do not fit its config: 1 missing: head\.0\.bias$"):
        RewardModel.from_pretrained(tmp_path)
    save_file({**weights, "surprise": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RewardError, match=r"1 unexpected: surprise$"):
        RewardModel.from_pretrained(tmp_path)


def test_a_saved_model_has_a_card_and_keeps_one_that_is_there(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert "| head_sizes | \\[16, 4\\] |" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fix_rate": 1.5}, "fix_rate is a share of layers, from 0 to 1, got 1.5"),
        ({"head_dropout": [0.1]}, "one for each of the 4 head_sizes"),
        ({"head_dropout": 1.0}, r"one number in \[0, 1\)"),
        ({"head_sizes": [0]}, "head_sizes must be positive"),
        ({"max_text_length": 1}, "max_text_length must leave room"),
        ({"backbone": "clip", "likelihood_weight": 1.0, "text_mask": "causal"}, "of the backbone 'blip'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RewardConfig(**settings)


def test_an_unknown_activation_lists_the_choices(captioner):
    with pytest.raises(RewardError, match=r"unknown head_activation 'gleu'. Choose from: .*gelu"):
        RewardModel.from_captioner(captioner, head_activation="gleu")
