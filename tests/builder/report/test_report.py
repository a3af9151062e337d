"""A report: what is read of a run, what its charts say, and a file that carries all it needs."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic_run import synthetic_run

from cyclepref.builder.report import scorers
from cyclepref.builder.report.compare import compare
from cyclepref.builder.report.core import core
from cyclepref.builder.report.facts import facts
from cyclepref.builder.report.gallery import read_gallery
from cyclepref.builder.report.page import ReportError
from cyclepref.builder.report.ranking import expected_shares, rank_models
from cyclepref.builder.report.report import report
from cyclepref.builder.report.reward_charts import RewardFileError, evaluation_charts, training_charts
from cyclepref.builder.run.store import Store, StoreError


def data_of(html: str) -> dict:
    packed = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', html)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_noise_of_a_pair_is_the_paired_standard_error_of_its_shared_seeds(made_runs):
    gallery = read_gallery(Store(made_runs["i2t2i"]))
    each = next(each for each in gallery.inputs if each.pairs)
    pair = each.pairs[0]
    chosen, rejected = (each.candidates[at].samples for at in (pair.chosen, pair.rejected))
    gaps = np.array([chosen[seed] - rejected[seed] for seed in chosen])
    assert pair.seeds == len(gaps) == 2
    assert pair.noise == pytest.approx(gaps.std(ddof=1) / 2**0.5)
    assert pair.margin == pytest.approx(gaps.mean(), abs=2e-6)


def test_every_pair_of_the_view_is_shown(made_runs):
    store = Store(made_runs["t2i2t"])
    shown = {pair.id for each in read_gallery(store).inputs for pair in each.pairs}
    assert shown == set(store.read_view("pairs")["pair_id"].to_pylist())


def test_of_too_many_inputs_the_same_are_drawn_each_time(made_runs):
    store = Store(made_runs["i2t2i"])
    first, second = (read_gallery(store, most=7) for _ in range(2))
    assert [each.id for each in first.inputs] == [each.id for each in second.inputs]
    assert (len(first.inputs), first.total) == (7, 30)


def test_a_build_that_has_not_come_to_its_pairs_is_shown_with_what_it_has(made_runs, tmp_path):
    run = shutil.copytree(made_runs["i2t2i"], tmp_path / "run")
    for view in ("candidates", "scores", "pairs"):
        shutil.rmtree(run / view)
    gallery = read_gallery(Store(run))
    assert not gallery.finished
    assert sum(len(each.candidates) for each in gallery.inputs) == 90
    assert all("closeness" in c.scores for each in gallery.inputs for c in each.candidates)
    assert report(run, tmp_path / "run.html").inputs == 30


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(StoreError, match="has no inputs to show yet: `cyclepref build RECIPE"):
        read_gallery(Store(tmp_path))


def test_the_page_carries_all_that_it_needs_and_lets_no_other_script_run(made_runs, tmp_path):
    html = report(made_runs["hostile"], tmp_path / "page.html").file.read_text()
    head = html.split("<style>")[0]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', head)[1]
    assert re.findall(r"'sha256-([^']*)'", policy) == hashes
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    without = re.sub(r"<script.*?</script>|<style>.*?</style>", "", html, flags=re.S)
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,)""", without)
    assert "<script>window" not in html
    assert "<img src=x" not in without


def test_the_script_reads_what_the_gallery_says(made_runs, tmp_path):
    written = report(made_runs["i2t2i"], tmp_path / "page.html")
    found = data_of(written.file.read_text())["runs"][0]
    assert found["metrics"] == ["closeness", "distance"]
    assert (found["decides"], found["higher"]) == (0, [True, False])
    assert [row["id"] for row in found["rows"]] == [e.id for e in read_gallery(Store(made_runs["i2t2i"])).inputs]
    assert {row["g"] for row in found["rows"]} == {f"folder {at}" for at in range(5)}
    assert core(read_gallery(Store(made_runs["i2t2i"])), "i2t2i")["rows"] == found["rows"]


def test_texts_are_cut_and_shown_without_what_steers_a_reader(made_runs):
    rows = core(read_gallery(Store(made_runs["hostile"])), "x")["rows"]
    texts = [c["t"] for row in rows for c in row["c"]]
    assert max(map(len, texts)) < 3_000
    assert any("(100,005 characters)" in text for text in texts)
    assert not any(set("\u202e\u200f\x1b") & set(text) for text in texts)


def test_too_many_pictures_go_into_a_folder_which_the_next_page_clears(made_runs, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    monkeypatch.setattr("cyclepref.builder.report.page.MOST_INLINE", 2_000)
    folder = report(made_runs["i2t2i"], out).folder
    assert len(list(folder.rglob("*.webp"))) == 30
    monkeypatch.undo()
    assert report(made_runs["i2t2i"], out).folder is None
    assert not folder.exists()


def test_a_folder_of_somebody_elses_is_not_cleared(made_runs, tmp_path):
    (tmp_path / "page_files").mkdir()
    (tmp_path / "page_files" / "mine.txt").write_text("mine")
    with pytest.raises(ReportError, match="page_files is there and is none of ours: move it, or name another --out"):
        report(made_runs["i2t2i"], tmp_path / "page.html")
    assert (tmp_path / "page_files" / "mine.txt").exists()


def test_money_is_told_only_at_a_price(made_runs):
    run = Store(made_runs["i2t2i"])
    assert not facts(run)["priced"]
    assert facts(run, 2.0)["priced"]


def test_a_model_that_was_never_beaten_has_a_finite_strength_above_the_others():
    shares = expected_shares(np.array([[0, 9, 9], [0, 0, 6], [0, 3, 0]], dtype=float))
    assert shares.argsort().tolist() == [2, 1, 0]
    assert 0.8 < shares[0] < 1


def test_a_model_without_pairs_has_no_strength():
    shares = expected_shares(np.array([[0, 2, 0], [1, 0, 0], [0, 0, 0]], dtype=float))
    assert np.isnan(shares[2])
    assert shares[0] > 0.5 > shares[1]


def test_better_models_rank_higher_and_the_intervals_hold_the_middle(made_runs):
    ranking = rank_models(read_gallery(Store(made_runs["i2t2i"])))
    middle = dict(zip(ranking.models, ranking.strength, strict=True))
    assert middle["careful"][0] > middle["plain"][0]
    assert all(low <= share <= high for share, low, high in middle.values())


def test_a_scorer_that_is_the_same_upside_down_agrees_with_every_pair(made_runs):
    said = scorers.verdicts(read_gallery(Store(made_runs["i2t2i"])))
    share, pairs = scorers.agreement(said.gaps["closeness"], said.gaps["distance"])
    assert share > 0.9  # a mean of squares may turn a close pair round
    assert pairs == len(said.margin)
    parts = scorers.by_margin(said, said.gaps["closeness"])
    assert [part.share for part in parts] == [1.0] * 4
    assert sum(part.pairs for part in parts) == pairs


def test_two_equal_runs_have_no_label_that_changed(made_runs, tmp_path):
    page = compare(made_runs["i2t2i"], made_runs["i2t2i"], tmp_path / "both.html")
    assert data_of(page.file.read_text())["changes"] == {}


def test_what_changed_between_two_runs_is_told_with_its_reason(made_runs, tmp_path):
    other = shutil.copytree(made_runs["i2t2i"], tmp_path / "other")
    store = Store(other)
    recipe = store.read_json("run.json")
    recipe["recipe"]["pairs"]["min_margin"] = 0.2
    store.write_json("run.json", recipe)
    pairs = store.read_view("pairs")
    store.write_view("pairs", pairs.filter(pa.compute.greater_equal(pairs["margin"], 0.2)))
    page = compare(made_runs["i2t2i"], other, tmp_path / "both.html")
    html = page.file.read_text()
    sentences = [said for found in data_of(html)["changes"].values() for said in found]
    left_out = pairs.num_rows - store.read_view("pairs").num_rows
    assert len(sentences) == left_out > 0
    assert all("only A prefers" in said and "too close in B, where min_margin is 0.2" in said for said in sentences)
    assert "pairs.min_margin" in html


def test_runs_of_two_cycles_are_not_compared(made_runs, tmp_path):
    with pytest.raises(ReportError, match=r"is of i2t2i and .* of t2i2t: compare two runs of one cycle"):
        compare(made_runs["i2t2i"], made_runs["t2i2t"], tmp_path / "both.html")


def test_runs_without_a_common_input_are_not_compared(made_runs, tmp_path):
    other = synthetic_run(tmp_path / "other", "i2t2i", 2, first=1_000)
    with pytest.raises(ReportError, match="share no input: compare two runs of the same inputs"):
        compare(made_runs["i2t2i"], other, tmp_path / "both.html")


def test_a_reward_models_training_and_evaluation_are_drawn(tmp_path):
    metrics = {"pairwise_accuracy": {"i2t2i": {"test": {"pairs": 9, "inputs": 3, "accuracy": 0.75}}},
               "epochs": [{"epoch": 1.0, "loss": 0.6, "validation_accuracy": 0.7}]}  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert [chart.id for chart in training_charts(tmp_path)] == ["training", "accuracy"]
    judge = {"accuracy": 0.7, "low": 0.6, "high": 0.8}
    calibration = {"bins": [{"confidence": 0.7, "accuracy": 0.8, "pairs": 9}], "error": 0.1, "overconfidence": -0.1}
    entry = {"dataset": "a/b", "pairs": 9, "inputs": 3, "judges": {"reward": judge}, "calibration": calibration}
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps({"datasets": [entry]}))
    assert [chart.title for chart in evaluation_charts(file)] == ["Evaluation on b", "Calibration on b"]


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_file_about_a_reward_that_is_none_is_refused_with_what_writes_one(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(RewardFileError, match=r"metrics\.json.*train-reward"):
        training_charts(tmp_path)
    with pytest.raises(RewardFileError, match=r"metrics\.json.*evaluate"):
        evaluation_charts(Path(tmp_path / "metrics.json"))
