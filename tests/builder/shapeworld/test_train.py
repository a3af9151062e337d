"""The recipe itself, at two steps a job: every job makes a folder that loads, resumes, and sees no held-out scene."""

import ast
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from cyclepref.builder.shapeworld import models, train
from cyclepref.builder.shapeworld.render import render
from cyclepref.builder.shapeworld.scenes import Scene, altered, is_held_out, sample_scenes
from cyclepref.builder.shapeworld.training import (
    autoencoder,
    captioners,
    data,
    features,
    loop,
    painters,
    recogniser,
    unclear,
    vocabulary,
)
from cyclepref.builder.study import quality

# So small that every job makes its fewest steps.
SCALE = "1e-9"
DRAWN = 2000


def test_no_scene_that_is_drawn_for_training_is_held_out_and_no_altered_one():
    for step in range(40):
        drawn = data.training_scenes("any", step, 64)
        shown = [scene for wrong in range(4) for scene in data.altered_scenes(drawn, wrong, step)]
        assert not any(map(is_held_out, drawn + shown))
        # Some of them would have been.
        assert any(is_held_out(altered(scene, 2, step)) for scene in drawn)


@pytest.mark.parametrize("wrong", range(4))
def test_an_altered_scene_has_as_many_wrong_attributes_as_were_asked_for(wrong):
    drawn = data.training_scenes("any", 0, 500)
    for scene, other in zip(drawn, data.altered_scenes(drawn, wrong, 3), strict=True):
        plain = altered(scene, wrong, 3)
        assert other == plain or is_held_out(plain)
        assert (scene == other) == (wrong == 0)


def test_a_held_out_scene_is_never_rendered_for_training():
    with pytest.raises(ValueError, match=r"the scene .* is held out from training: draw scenes by training_scenes"):
        data.pictures("any", 0, sample_scenes(1, seed=0, held_out=True))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The scenes that each job of the recipe renders, by its name, in the first examples that it draws itself."""
    seen: dict[str, list[Scene]] = {name: [] for name in train.JOBS}
    folder = tmp_path_factory.mktemp("drawn")
    now = ""

    def noted(scene, seed):
        seen[now].append(scene)
        return render(scene, seed)

    def draw_only(job, run):
        if job.name in painters.STEPS:  # which have drawn everything before their first step
            return
        with torch.no_grad():
            for step in range(-(-DRAWN // job.batch)):
                job.loss(job.model, step)
        if job.name == autoencoder.NAME:  # which the painters load
            job.export(job.model.eval(), loop.Progress(1, 1, DRAWN, 0.0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "render", noted)
        for module in (autoencoder, captioners, features, painters, recogniser):
            patch.setattr(module, "fit", draw_only)
        for now, job in train.JOBS.items():
            if now in painters.STEPS:  # else the second would take what the first has drawn
                (folder / "work" / "latents.pt").unlink(missing_ok=True)
            job(loop.Run(folder / "out", folder / "work", torch.device("cpu"), float(SCALE)))
    return seen


@pytest.mark.slow  # every job's own loss, on thousands of pictures
@pytest.mark.parametrize("job", train.JOBS)
def test_no_job_of_the_recipe_sees_a_held_out_scene(drawn, job):
    assert len(drawn[job]) >= (500 if job in painters.STEPS else DRAWN)
    assert not any(map(is_held_out, drawn[job]))


def test_only_the_file_that_leaves_out_held_out_scenes_draws_or_renders_any():
    for path in Path(data.__file__).parent.glob("*.py"):
        taken = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom | ast.Import)
            for alias in node.names
        }
        makes = taken & {"scenes", "random_scene", "sample_scenes", "altered", "Scene", "render"}
        assert path.name == "data.py" or makes <= {"Scene"}, path.name


def test_a_step_sees_the_same_scenes_every_time_and_others_than_the_next():
    assert data.training_scenes("any", 3, 64) == data.training_scenes("any", 3, 64)
    assert data.training_scenes("any", 3, 64) != data.training_scenes("any", 4, 64)
    assert data.training_scenes("any", 3, 64) != data.training_scenes("other", 3, 64)


def test_worn_pictures_keep_their_shape_and_range():
    pictures = data.pictures("any", 0, data.training_scenes("any", 0, 32))
    worn = data.worn(pictures)
    assert worn.shape == pictures.shape == (32, 3, 64, 64)
    assert 0 <= worn.min() <= worn.max() <= 1
    assert not torch.equal(worn, pictures)


def test_unclear_pictures_keep_their_shape_and_range():
    scenes = data.training_scenes("any", 0, 16)
    pictures = data.pictures("any", 0, scenes)
    for unclearer in (unclear.battered(pictures), unclear.fading("any", 0, scenes)):
        assert unclearer.shape == pictures.shape
        assert 0 <= unclearer.min() <= unclearer.max() <= 1
        assert (unclearer - pictures).abs().mean() > 0.01


def test_no_picture_fades_into_a_held_out_scene(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        data, "pictures", lambda name, step, scenes: drawn.extend(scenes) or torch.zeros(len(scenes), 3, 64, 64)
    )
    for step in range(20):
        unclear.fading("any", step, data.training_scenes("any", step, 64))
    assert len(drawn) == 20 * 128
    assert not any(map(is_held_out, drawn))


@pytest.mark.parametrize("weak", unclear.PAINTERS)
def test_a_half_painted_picture_is_nearer_to_its_scene_the_later_it_begins(weak):
    pictures = data.pictures("any", 0, data.training_scenes("any", 0, 4))
    pipeline = DiffusionPipeline.from_pretrained(models.WEIGHTS / weak, dtype=torch.float32)
    torch.manual_seed(0)
    early, late = (unclear.half_painted(pipeline, pictures, begin) for begin in (3, 8))
    assert early.shape == pictures.shape
    assert (late - pictures).square().mean() < (early - pictures).square().mean()


@pytest.mark.parametrize("make", [vocabulary.clip_tokenizer, vocabulary.bert_tokenizer, vocabulary.t5_tokenizer])
def test_every_word_of_the_world_is_one_token(make):
    tokenizer = make()
    bare = len(tokenizer("").input_ids)
    assert {len(tokenizer(word).input_ids) for word in vocabulary.WORDS} == {bare + 1}


def test_the_distance_that_the_features_learn_by_is_that_of_lpips():
    torch.manual_seed(0)
    model = features.Features().eval()
    first, second = torch.rand(2, 4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        mine = features.distances(model(first)[0], model(second)[0])
        assert mine.tolist() == pytest.approx(model.lpips(first, second).flatten().tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The weights and checkpoints of a run of a few steps of everything, with few examples in each."""
    folder = tmp_path_factory.mktemp("shapeworld")
    with pytest.MonkeyPatch.context() as patch:
        for module in (autoencoder, captioners, features, painters, recogniser):
            patch.setattr(module, "BATCH", 4)
        train.main(["--out", str(folder / "out"), "--work", str(folder / "work"), "--steps-scale", SCALE])
    return folder


def test_the_recipe_makes_every_folder_and_all_of_them_load(made):
    weights = made / "out"
    assert {path.name for path in weights.iterdir()} == {*models.CAPTIONERS, *models.PIPELINES, "lpips", "oracle"}
    results = quality.measure(1, weights)
    assert set(results["captioners"]) == set(models.CAPTIONERS)
    assert set(results["pipelines"]) == set(models.PIPELINES)


def test_a_finished_job_is_only_exported_again(made, capsys):
    train.main(["--only", "oracle", "--out", str(made / "out"), "--work", str(made / "work"), "--steps-scale", SCALE])
    assert "step" not in capsys.readouterr().out.replace("steps", "")


def test_an_interrupted_job_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    def run_to(end, folder, stop_at=None):
        torch.manual_seed(0)
        model, seen = torch.nn.Linear(3, 1), []

        def loss(model, step):
            if step == stop_at:
                raise KeyboardInterrupt
            return model(torch.randn(8, 3)).square().mean()

        job = loop.Job("toy", model, loss, lambda m, p: seen.append(m.weight.clone()), end, 8, 1e-2, exports=1)
        try:
            loop.fit(job, loop.Run(folder, folder, torch.device("cpu")))
        except KeyboardInterrupt:
            return None
        return seen[-1]

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1)
    whole = run_to(20, tmp_path / "whole")
    assert run_to(20, tmp_path / "cut", stop_at=12) is None
    assert torch.equal(run_to(20, tmp_path / "cut"), whole)


def test_an_unknown_job_is_refused_with_the_choices(capsys):
    with pytest.raises(SystemExit):
        train.main(["--only", "dalle"])
    assert "lpips" in capsys.readouterr().err
