"""What a finished build tells of failures and cuts, and which failed row belongs to which input."""

import pyarrow as pa
import pytest

from cyclepref.builder.dataset.statistics import cut_warnings, split_warnings
from cyclepref.builder.run.failures import FailuresError, failures
from cyclepref.builder.run.notices import notices
from cyclepref.builder.run.record import Notes
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant, Work
from cyclepref.builder.stages.steps import failure, receipt
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest


def counts(**changed) -> dict:
    row = {"wanted": 10, "ok": 10, "failed": 0, "reused": 0}
    stages = {"candidates": {"blip": row}, "reconstructions": {"sd": row}, "scores": {"lpips": row}}
    truncated = {"candidates": {}, "reconstructions": {"sd": {"truncated": 0, "cut_by": {}}}}
    return {"inputs": {"read": 5, "failed": 0}, **stages, "truncated": truncated, **changed}


def test_a_build_without_a_flaw_has_nothing_to_tell():
    assert notices(counts()) == []


def test_inputs_that_could_not_be_read_rows_that_failed_and_cut_prompts_are_each_told():
    found = notices(
        counts(
            inputs={"read": 5, "failed": 2},
            candidates={"blip\x1b[31m": {"wanted": 10, "ok": 7, "failed": 3, "reused": 0}},
            truncated={"reconstructions": {"sd": {"truncated": 8, "cut_by": {"clip": 8}}}},
            dataset={"warnings": ["Length alone predicts 90%."]},
        )
    )
    assert found[0].startswith("2 of 5 inputs could not be read")
    assert "candidates: blip\\x1b[31m failed on 3 of 10 rows" in found[1]
    assert "sd: 8 of 10 reconstructions were made from a candidate that was cut" in found[2]
    assert found[3] == "Length alone predicts 90%."


def test_candidates_that_were_cut_are_told_from_one_in_a_hundred_on():
    assert cut_warnings({"m": {"candidates": 1000, "cut": 9}, "n": {"candidates": 3, "cut": 0}}) == []
    assert (
        "m: 10 of 1000 candidates were cut at a token limit (1%)"
        in cut_warnings({"m": {"candidates": 1000, "cut": 10}})[0]
    )


def test_splits_without_pairs_and_splits_that_measure_nothing_are_told():
    told = split_warnings({"train": {"inputs": 90, "pairs": 50}, "test": {"inputs": 4, "pairs": 9}})
    assert told[0].startswith("The split validation has 0 inputs and no pairs")
    assert "The split test has only 4 inputs" in told[1]
    assert len(told) == 2


def store_with_failures(tmp_path) -> Store:
    """An input file, a candidate of it, and a reconstruction of that; a failure at each of three stages."""
    store = Store(tmp_path)
    source = {"source_key": "k", "source": "photos/cat.png", "stamp": "1", "input_id": "i"}
    made = [
        {"generation_id": "c", "source_id": "i", "content_id": "text", "model": "blip"},
        {"generation_id": "r", "source_id": "text", "content_id": "picture", "model": "sd"},
    ]
    store.write_part("sources", pa.Table.from_pylist([source], schema=records.SOURCE))
    store.write_part("inputs", pa.Table.from_pylist([{"input_id": "i", "modality": "image"}], schema=records.INPUT))
    store.write_part("generations", pa.Table.from_pylist(made, schema=records.GENERATION))
    stages = {
        "inputs": ("sources", "source_key", "photos/broken.png"),
        "candidates": ("generations", "generation_id", "i"),
        "reconstructions": ("generations", "generation_id", "text"),
        "scores": ("similarities", "similarity_id", "picture"),
    }
    with Notes(store).of("mine") as notes:
        for stage, (table, key, of) in stages.items():
            rows = pa.table({key: [digest(stage)], "model": [f"model of {stage}"]})

            def do(todo, stage=stage, key=key, of=of):
                row = {**todo.to_pylist()[0], "of": of, "error_class": "ValueError", "message": "[b]bad"}
                bad = failure(row, key, stage, "of")
                store.write_part("failures", pa.Table.from_pylist([bad], schema=records.FAILURE))
                yield receipt(todo, 1)

            Accountant(store, 1.0, notes=notes).run(Work(stage, table, key, rows), do)
    return store


def test_every_failed_row_is_listed_with_the_input_it_belongs_to_whatever_the_stage(tmp_path):
    found = {row["stage"]: row for row in failures(store_with_failures(tmp_path))}
    assert {stage: row["item"] for stage, row in found.items()} == {
        "inputs": "photos/broken.png",
        "candidates": "photos/cat.png",
        "reconstructions": "photos/cat.png",
        "scores": "photos/cat.png",
    }
    assert found["scores"]["input_id"] == "i"
    assert found["scores"]["error"] == "ValueError"


def test_failures_of_one_stage_or_model_are_listed_alone_and_an_unknown_one_names_those_there_are(tmp_path):
    store = store_with_failures(tmp_path)
    assert [row["stage"] for row in failures(store, stage="scores")] == ["scores"]
    assert [row["stage"] for row in failures(store, model="model of inputs")] == ["inputs"]
    with pytest.raises(FailuresError, match="no failures of the stage 'score'; there are some of candidates, inputs,"):
        failures(store, stage="score")


def a_build_that_ends_by(error: Exception, store: Store) -> None:
    with Notes(store).of("mine") as notes:
        notes.begin("candidates", "generations", pa.chunked_array([["c"]]), pa.chunked_array([["blip"]]), 1)
        raise error


def test_status_names_inputs_beside_the_reasons_and_what_ended_the_build(tmp_path):
    store = store_with_failures(tmp_path)
    found = status(store)
    assert found["error"] is None
    assert {tuple(reason["items"]) for reason in found["failures"]} == {("photos/broken.png",), ("photos/cat.png",)}
    with pytest.raises(RuntimeError, match="9 of 10"):
        a_build_that_ends_by(RuntimeError("candidates: blip: 9 of 10 rows failed"), store)
    found = status(store)
    assert (found["state"], found["error"]) == ("stopped", "candidates: blip: 9 of 10 rows failed")
