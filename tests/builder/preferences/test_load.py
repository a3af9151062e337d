"""Pairs back from a run or a dataset: the same as were published, lazily, and at other thresholds."""

import pickle
import shutil

import dataset_run
import datasets
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from made_run import RULE, make_run
from PIL import Image

from cyclepref.builder.dataset.edition import release
from cyclepref.builder.dataset.reader import head_of
from cyclepref.builder.preferences.filters import FilterError, Filters
from cyclepref.builder.preferences.layouts.as_rankings import open_layout
from cyclepref.builder.preferences.layouts.detect import open_judged
from cyclepref.builder.preferences.load import load_pairs, open_pairs, select
from cyclepref.builder.preferences.rankings import LoadError
from cyclepref.builder.run.store import Store
from cyclepref.schemas.recipe import Pairing
from cyclepref.schemas.records import PAIR

CYCLES = pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
SAME = ("pair_id", "input_id", "chosen_id", "rejected_id", "chosen_model", "rejected_model", "chosen_models",
        "rejected_models", "chosen_score", "rejected_score", "margin")  # fmt: skip


def facts(dataset: datasets.Dataset) -> list[dict]:
    """All of the rows but their contents."""
    return [{name: row[name] for name in SAME} for row in dataset.with_format(None)]


@CYCLES
def test_pairs_of_a_run_are_those_that_its_dataset_holds(runs, cycle):
    for split in ("train", "validation", "test"):
        published = datasets.load_dataset(str(runs[cycle] / "dataset"), "pairs", split=split)
        expected = sorted(({name: row[name] for name in SAME} for row in published), key=lambda row: row["pair_id"])
        found = facts(load_pairs(runs[cycle], split))
        assert sorted(found, key=lambda row: row["pair_id"]) == expected
        assert found == facts(load_pairs(runs[cycle] / "dataset", split))


@CYCLES
def test_every_row_has_the_contents_that_its_ids_name(runs, cycle):
    store = Store(runs[cycle])
    made = store.read_part("generations", store.parts("generations")[0])
    contents = dict(zip(made["generation_id"].to_pylist(), made.to_pylist(), strict=True))
    inputs = store.read_part("inputs", store.parts("inputs")[0])
    sources = dict(zip(inputs["input_id"].to_pylist(), inputs.to_pylist(), strict=True))
    for row in load_pairs(runs[cycle], "train"):
        for side in ("chosen", "rejected"):
            content = contents[row[f"{side}_id"]]
            assert row[side] == content["text"] if cycle == "i2t2i" else same_image(row[side], content["image"])
        source = sources[row["input_id"]]
        assert same_image(row["image"], source["image"]) if cycle == "i2t2i" else row["prompt"] == source["text"]


def same_image(shown: Image.Image, data: bytes) -> bool:
    from cyclepref.builder.common.images import decode

    return shown.mode == "RGB" and shown.tobytes() == decode(data).tobytes()


@CYCLES
def test_pairing_again_at_the_builds_own_thresholds_gives_the_builds_pairs(runs, cycle):
    poor = RULE["poor_chosen"]
    again = load_pairs(runs[cycle] / "dataset", min_margin=RULE["min_margin"], poor_chosen=poor)
    assert facts(again) == facts(load_pairs(runs[cycle]))


@CYCLES
def test_pairs_at_another_threshold_are_those_of_a_run_built_with_it(runs, cycle, tmp_path):
    other = make_run(tmp_path / "other", cycle, pairs={**RULE, "min_margin": 0.01})
    wider = load_pairs(runs[cycle], min_margin=0.01)
    assert without_ids(facts(wider)) == without_ids(facts(load_pairs(other)))
    assert len(wider) > len(load_pairs(runs[cycle]))
    stricter = load_pairs(runs[cycle] / "dataset", min_margin=0.2)
    assert facts(stricter) == [row for row in facts(load_pairs(runs[cycle])) if row["margin"] >= 0.2 - 1e-9]


@CYCLES
def test_a_dataset_published_before_pairs_had_their_texts_is_read_alike(runs, tmp_path, own_cache, cycle):
    dataset = shutil.copytree(runs[cycle] / "dataset", tmp_path / "dataset")
    for path in (dataset / "pairs").iterdir():
        table = pq.read_table(path)
        old = [name for name in PAIR.names if name in table.column_names]
        pq.write_table(table.select(old).replace_schema_metadata(None), path)
    contents = [name for name in ("image", "prompt", "chosen", "rejected") if name in load_pairs(dataset).features]
    for found, expected in zip(load_pairs(dataset), load_pairs(runs[cycle]), strict=True):
        assert [found[name] for name in (*SAME, *contents)] == [expected[name] for name in (*SAME, *contents)]


def without_ids(rows: list[dict]) -> list[dict]:
    """A pair that was never published has an id of its own, so pairs are told by their candidates."""
    bare = [{name: value for name, value in row.items() if name != "pair_id"} for row in rows]
    return sorted(bare, key=lambda row: (row["chosen_id"], row["rejected_id"]))


def test_without_a_run_a_lower_threshold_needs_to_know_who_is_poor(runs):
    dataset = runs["i2t2i"] / "dataset"
    with pytest.raises(LoadError, match=r"does not say which .* were too poor\. Give poor_chosen too"):
        load_pairs(dataset, min_margin=0.01)
    kept = load_pairs(dataset, min_margin=0.01, poor_chosen=None)
    assert len(kept) > len(load_pairs(runs["i2t2i"], min_margin=0.01))
    with pytest.raises(LoadError, match="does not say from which margin on: give min_margin"):
        load_pairs(dataset, poor_chosen=None)


def test_a_dataset_without_its_run_is_paired_again_by_the_rule_in_its_card(tmp_path, own_cache):
    made = dataset_run.make_run(tmp_path, "t2i2t", pairs={"min_margin": 0.3, "poor_chosen": 0.6})
    counts = release(made.facts, made.views, made.accountant(), None, None)
    run = {"recipe": made.recipe.model_dump(mode="json"), "counts": counts, "models": {}}
    made.store.write_json("run.json", run)
    of_run = facts(load_pairs(tmp_path, min_margin=0.0))
    assert facts(load_pairs(tmp_path / "dataset", min_margin=0.0)) == of_run
    assert len(of_run) > len(load_pairs(tmp_path / "dataset"))
    assert {row["chosen_model"] for row in of_run} == {"strong", "middle"}


def test_the_cards_head_goes_through_the_hubs_own_reader_unchanged(tmp_path):
    made = dataset_run.make_run(tmp_path, "t2i2t", inputs=4)
    release(made.facts, made.views, made.accountant(), None, None)
    text = (tmp_path / "dataset" / "README.md").read_text()
    head = DatasetCard(text).data.to_dict()
    assert head == head_of(text)
    assert Pairing.model_validate(head["cyclepref"]["pairs"]) == made.recipe.pairs
    assert head["cyclepref"]["rows"]["train"]["inputs"] > 0


def test_a_rule_in_a_card_that_cannot_be_read_is_one_clear_error(runs, tmp_path, own_cache):
    dataset = shutil.copytree(runs["t2i2t"] / "dataset", tmp_path / "dataset")
    card = (dataset / "README.md").read_text().replace("cyclepref:\n", "cyclepref:\n  pairs: {min_margin: low}\n")
    (dataset / "README.md").write_text(card)
    with pytest.raises(LoadError, match=r"has a rule for pairs that cannot be read: .*min_margin"):
        load_pairs(dataset)


def test_noise_that_rankings_cannot_tell_of_is_said(runs, tmp_path):
    run = shutil.copytree(runs["t2i2t"], tmp_path / "run")
    content = Store(run).read_json("run.json")
    content["recipe"]["pairs"]["min_margin_sd"] = 2.0
    Store(run).write_json("run.json", content)
    with pytest.raises(LoadError, match="with min_margin_sd too"):
        load_pairs(run, min_margin=0.01)


def test_images_are_decoded_when_a_row_is_read_and_columns_can_be_chosen(runs, monkeypatch):
    opened = []
    pairs = load_pairs(runs["i2t2i"])
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **named: opened.append(1) or real(*given, **named))
    assert pairs.select_columns(["chosen", "margin"])[0]["chosen"]
    assert opened == []
    assert pairs[0]["image"].size == (16, 16)
    assert len(opened) == 1


@CYCLES
def test_a_dataset_of_pairs_survives_another_process_and_the_usual_operations(runs, cycle):
    pairs = load_pairs(runs[cycle])
    again = pickle.loads(pickle.dumps(pairs))  # what a data loader's workers get
    assert again[3]["chosen"] == pairs[3]["chosen"]
    assert len(pickle.dumps(pairs)) < 200_000
    assert pairs.shuffle(seed=1).select(range(2))[0]["margin"] > 0
    assert pairs.map(lambda row: {"wide": row["margin"] > 0.2}).column_names[-1] == "wide"


def test_the_order_of_rows_in_the_dataset_changes_nothing(runs, tmp_path):
    source = open_pairs(runs["t2i2t"])
    rankings = source.read("train")
    expected, _ = select(rankings, Filters(max_pairs_per_input=1, balance_by_model=True))
    turned = rankings.pairs.take(list(range(rankings.pairs.num_rows))[::-1])
    found, _ = select(
        type(rankings)(**{**vars(rankings), "pairs": turned}), Filters(max_pairs_per_input=1, balance_by_model=True)
    )
    assert found.equals(expected)


STOPPED = {"state": "stopped", "recipe": "made", "stages": [], "updated": 0.0}


# ---- what cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "run.json").unlink(), "is not finished: it has no run.json. `cyclepref status"),
        (lambda run: (run / "dataset" / "README.md").unlink(), "is not finished: it has no dataset/README.md"),
        (
            lambda run: Store(run).write_json("progress.json", STOPPED),
            "its latest build is stopped.*or give .*dataset for what an earlier build finished",
        ),
    ],
)
def test_a_run_that_is_not_finished_is_refused(runs, tmp_path, damage, message):
    run = shutil.copytree(runs["i2t2i"], tmp_path / "run")
    damage(run)
    with pytest.raises(LoadError, match=message):
        load_pairs(run)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no/such/folder", "there is no folder no/such/folder on this machine: give a run"),
        ("./mine", "there is no folder ./mine on this machine: give a run"),
        (
            "org/repo-nobody-has",
            r"cannot read the dataset org/repo-nobody-has \(there is no folder org/repo-nobody-has on this machine, "
            r"and the Hub did not give it: .*that can be reached",
        ),
        (__file__, "test_load.py is not a folder"),
        ("s3://bucket/run", "is an address: pairs are read from this machine or the Hub"),
    ],
)
def test_a_place_that_holds_nothing_is_one_clear_error(place, message):
    with pytest.raises(LoadError, match=message):
        load_pairs(place)


def test_a_misspelt_run_is_told_with_the_one_that_is_here(tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for place in ("runs/mien", "./runs/mien", f"{tmp_path}/runs/mien"):
        for read in (load_pairs, open_layout, open_judged):
            with pytest.raises(LoadError, match=r"there is no folder .*runs/mien .*did you mean .*runs/mine\?\)"):
                read(place).splits()


def test_a_folder_without_a_dataset_and_a_split_that_is_not_there_are_told(runs, tmp_path):
    with pytest.raises(LoadError, match="is not a run directory and holds no dataset"):
        load_pairs(tmp_path)
    with pytest.raises(LoadError, match="has no split 'dev': choose from train, validation, test"):
        load_pairs(runs["i2t2i"], "dev")
    with pytest.raises(LoadError, match="is a folder, which has no revision 'main'"):
        load_pairs(runs["i2t2i"], revision="main")


def test_filters_that_leave_nothing_say_what_each_removed(runs):
    every = len(load_pairs(runs["i2t2i"]))
    with pytest.raises(FilterError, match=f"no pair left: removed: min_margin {every}. Loosen"):
        load_pairs(runs["i2t2i"], min_margin=5)


def test_a_dataset_without_any_pair_says_so(tmp_path, own_cache):
    run = make_run(tmp_path / "run", "t2i2t", inputs=12, pairs={"min_margin": 3, "poor_chosen": None})
    with pytest.raises(FilterError, match="no pair left: it was built without any"):
        load_pairs(run)
    assert len(load_pairs(run, min_margin=0.1)) > 0  # the run says which way is better
    with pytest.raises(
        LoadError, match="has no pair that shows whether a higher score is better: give higher_is_better"
    ):
        load_pairs(run / "dataset", min_margin=0.1, poor_chosen=None)
    assert len(load_pairs(run / "dataset", min_margin=0.1, poor_chosen=None, higher_is_better=True)) > 0
