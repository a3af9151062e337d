"""An audit: which pairs are drawn, that no answer is lost, what the answers say, and who may give one."""

import csv
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from cyclepref.builder.dataset.card_figures import people_section
from cyclepref.builder.preferences.layouts.as_rankings import open_layout
from cyclepref.builder.preferences.layouts.detect import open_judged
from cyclepref.builder.preferences.layouts.items import JudgedError
from cyclepref.builder.report.audit.audit import audit
from cyclepref.builder.report.audit.charts import audit_charts
from cyclepref.builder.report.audit.draw import draw
from cyclepref.builder.report.audit.result import result
from cyclepref.builder.report.audit.serve import Desk
from cyclepref.builder.report.audit.table import read_table, write_table
from cyclepref.builder.report.page import ReportError
from cyclepref.builder.run.audit import ANSWERS_FILE, Answer, add_answers, read_answers
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.store import Store
from cyclepref.schemas import records

TOKEN = "of-a-test"


@pytest.fixture
def store(made_runs, tmp_path) -> Store:
    return Store(shutil.copytree(made_runs["i2t2i"], tmp_path / "run"))


@pytest.fixture
def client(store) -> TestClient:
    app = Desk(store, draw(store, 6), TOKEN, "run").app()
    client = TestClient(app, base_url="http://127.0.0.1")
    client.params = {"token": TOKEN, "name": "anna"}
    return client


def said(store: Store, annotator: str, ways: str) -> None:
    """Answers to the pairs in order: c(hosen), r(ejected), t(ie) or s(kip)."""
    rows = draw(store, len(ways)).to_pylist()
    better = {"c": "chosen_id", "r": "rejected_id"}
    kinds = {"c": "prefers", "r": "prefers", "t": "tie", "s": "skip"}
    answers = []
    for at, (row, way) in enumerate(zip(rows, ways, strict=True)):
        preferred = row[better[way]] if way in better else None
        answers.append(Answer(row["audit_id"], annotator, kinds[way], preferred, row["chosen_id"], float(at)))
    add_answers(store, answers)


def test_pairs_are_of_every_margin_and_every_two_models_alike(store):
    drawn = draw(store, 24)
    strata = Counter(drawn["stratum"].to_pylist())
    assert drawn.num_rows == 24
    assert len(strata) >= 10
    assert max(strata.values()) <= 3
    assert len({name[0] for name in strata}) == 4


def test_the_same_pairs_are_drawn_again_and_more_of_them_are_added(store):
    first = draw(store, 10)
    assert draw(store, 10).equals(first)
    assert draw(store, 5).equals(first)
    assert draw(store).equals(first)
    assert draw(store, 15).slice(0, 10).equals(first)


def test_a_run_without_pairs_has_nothing_to_ask(store):
    store.write_view("pairs", records.PAIR.empty_table())
    with pytest.raises(ReportError, match=r"has no pairs to ask about: lower pairs\.min_margin"):
        draw(store, 5)


def test_an_address_is_no_place_for_answers():
    with pytest.raises(ReportError, match="is an address: answers are kept on this machine; copy the run here"):
        audit("s3://bucket/run?region=here", 5)


def test_answers_given_at_once_are_all_kept(store):
    draw(store, 8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: add_answers(store, [Answer(f"{at}", "anna", "tie", None, None, at)]), range(24)))
    assert len(read_answers(store)) == 24


def test_a_damaged_file_of_answers_is_never_written_over(store):
    said(store, "anna", "c")
    with open(store.root + "/" + ANSWERS_FILE, "r+b") as file:
        file.seek(60)
        file.write(b"XXXX")
    with pytest.raises(StoreError, match=r"answers\.parquet is damaged .*restore it from a copy"):
        said(store, "anna", "cc")


def test_each_person_has_sides_of_their_own_and_they_stay(store, client):
    def left(name: str) -> list:
        return [client.get("/next", params={"name": name}).json()["pair"]["left"]["id"] for _ in range(2)]

    assert left("anna")[0] == left("anna")[1]
    assert len({left(f"person {at}")[0] for at in range(20)}) == 2


def test_the_page_does_not_tell_what_the_run_says(store, client):
    pair = draw(store, 6).to_pylist()[0]
    told = client.get("/next").text
    assert pair["audit_id"] in told
    assert not any(secret in told for secret in (pair["chosen_model"], f"{pair['margin']:.4f}", "chosen", "stratum"))


@pytest.mark.parametrize("way", [{"token": "wrong"}, {"token": ""}])
def test_without_the_token_nothing_is_told_or_kept(store, client, way):
    assert client.get("/next", params=way).status_code == 403
    assert client.post("/answer", params=way, json={}).status_code == 403
    assert read_answers(store) == []


def test_another_name_of_this_machine_is_refused(client):
    assert client.get("/next", headers={"host": "evil.example"}).status_code == 400


def test_an_answer_that_is_none_is_refused_and_not_kept(store, client):
    pair = client.get("/next").json()["pair"]
    good = {"pair": pair["id"], "left": pair["left"]["id"], "right": pair["right"]["id"], "answer": "left"}
    turned = good | {"left": good["right"], "right": good["left"]}
    for wrong in (good | {"answer": "both"}, good | {"pair": "0" * 32}, turned):
        assert client.post("/answer", json=wrong).status_code == 400
    assert client.post("/answer", content=b"answer=left").status_code == 415
    assert client.post("/answer", json=good | {"more": "x" * 20_000}).status_code == 413
    assert client.post("/answer", params={"name": "\u202e"}, json=good).status_code == 400
    assert read_answers(store) == []
    assert client.post("/answer", json=good).json()["done"] == 1
    assert client.post("/undo", json={}).json()["pair"]["id"] == pair["id"]
    assert read_answers(store) == []


def test_pictures_are_those_of_the_audit_alone(store, client):
    pair = client.get("/next").json()["pair"]
    assert client.get(f"/picture/{pair['given']['picture']}").headers["content-type"] == "image/png"
    other = set(store.rows("inputs")["input_id"].to_pylist()) - set(draw(store, 6)["input_id"].to_pylist())
    assert client.get(f"/picture/input/{min(other)}").status_code == 404


def test_the_result_is_told_to_those_who_have_answered_everything(client):
    assert client.get("/result").status_code == 403


def test_people_are_compared_with_each_other_and_with_every_scorer(store):
    said(store, "anna", "ccccrrcc")
    said(store, "ben", "ccccrrcr")
    found = result(store)
    assert found["answered"] == 8
    assert found["clear"] == 7  # of the last one they say opposite things
    [kappa] = found["people"]["kappa"]
    assert (kappa["annotators"], kappa["pairs"]) == (["anna", "ben"], 8)
    assert kappa["kappa"] == pytest.approx(0.7143, abs=1e-3)
    # Krippendorff's: 1 - observed / expected disagreement, of 16 labels with 11 of one kind and 5 of the other.
    assert found["people"]["alpha"]["alpha"] == pytest.approx(1 - (2 / 16) / (2 * 11 * 5 / (16 * 15)))
    closeness = found["scorers"]["closeness"]
    assert closeness["share"] == pytest.approx(5 / 7)
    assert closeness["pairs"] == 7
    assert sum(part["pairs"] for part in closeness["by_margin"]) == 7
    assert set(found["scorers"]) == {"closeness", "distance", "longer is better"}
    assert store.read_json("audit.json") == found
    assert [chart.id for chart in audit_charts(store)] == ["people"]


def test_ties_and_skips_count_for_nobody(store):
    said(store, "anna", "ctsr")
    found = result(store)
    assert (found["answered"], found["clear"]) == (3, 2)
    assert found["annotators"] == {"anna": {"answers": 4, "ties": 1, "skips": 1}}
    assert found["people"]["alpha"] is None


def test_an_audit_is_a_judged_dataset_whose_labels_are_peoples(store):
    said(store, "anna", "crt")
    for place in (f"audit:{store.root}", f"{store.root}/audit"):
        layout = open_judged(place)
        items = list(layout)
        assert sum(len(item.pairs) for item in items) == 2
        assert sum(item.ties for item in items) == 1
        assert {item.kind for item in items} == {"text"}
        assert all(item.shared.open()[0].size == (32, 32) for item in items)
    turned = draw(store, 3).to_pylist()[1]
    item = next(item for item in items if item.name == turned["input_id"])
    better = [item.models[pair[0]] for pair in item.pairs]
    assert turned["rejected_model"] in better


def test_an_audit_nobody_has_answered_is_no_dataset(store):
    with pytest.raises(JudgedError, match="has no audit: `cyclepref audit"):
        open_judged(f"audit:{store.root}")


def test_an_audit_is_not_trained_on(store):
    said(store, "anna", "c")
    with pytest.raises(JudgedError, match="train on the run, and evaluate on its audit"):
        open_layout(f"{store.root}/audit")


def test_a_table_goes_out_and_comes_back(store, tmp_path):
    drawn, file = draw(store, 5), tmp_path / "audit.csv"
    assert write_table(store, drawn, file) == 5
    with open(file, encoding="utf-8-sig", newline="") as source:
        rows = list(csv.DictReader(source))
    assert all((tmp_path / row["input"]).is_file() for row in rows)
    for row, answer in zip(rows, ("1", "2", "tie", "skip", ""), strict=True):
        row["answer"] = answer
    with open(file, "w", encoding="utf-8", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert read_table(store, drawn, file, "carla") == 4
    answers = read_answers(store)
    assert [answer.better for answer in answers] == [rows[0]["first_id"], rows[1]["second_id"], None, None]
    assert {answer.annotator for answer in answers} == {"carla"}


def test_a_wrong_row_of_a_table_keeps_nothing_of_it(store, tmp_path):
    drawn, file = draw(store, 2), tmp_path / "audit.csv"
    write_table(store, drawn, file)
    text = file.read_text("utf-8-sig").splitlines()
    good, bad = (line.rsplit(",", 2)[0] for line in text[1:])
    file.write_text("\n".join([text[0], f"{good},1,dora", f"{bad},three,dora"]), "utf-8")
    with pytest.raises(ReportError, match="line 3: the answer must be 1, 2, tie or skip, got 'three'"):
        read_table(store, drawn, file)
    assert read_answers(store) == []


def test_no_cell_of_a_table_is_a_formula(store, tmp_path):
    rows = [row | {"text": "=HYPERLINK(1)"} for row in store.rows("generations").to_pylist()]
    made = Store(tmp_path / "made")
    shutil.copytree(store.root, made.root, dirs_exist_ok=True)
    shutil.rmtree(f"{made.root}/store/generations")
    schema = records.GENERATION
    made.write_part(
        "generations", pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in rows], schema)
    )
    write_table(made, draw(made, 2), tmp_path / "audit.csv")
    assert "'=HYPERLINK(1)" in (tmp_path / "audit.csv").read_text("utf-8-sig")
    assert ",=HYPERLINK" not in (tmp_path / "audit.csv").read_text("utf-8-sig")


def test_random_answers_agree_with_nobody(store):
    rng = np.random.default_rng(0)
    for name in ("anna", "ben"):
        said(store, name, "".join(rng.choice(["c", "r"], 40)))
    found = result(store)
    assert abs(found["people"]["alpha"]["alpha"]) < 0.4
    assert found["people"]["alpha"]["low"] < 0 < found["people"]["alpha"]["high"]


def test_the_card_tells_what_people_say_and_not_who_they_are(store):
    said(store, "anna", "ccccrr")
    said(store, "ben", "ccccrt")
    section = "\n".join(people_section(result(store)))
    assert "2 people labelled 6 pairs" in section
    assert "| closeness | 66.7% |" in section
    assert "anna" not in section
