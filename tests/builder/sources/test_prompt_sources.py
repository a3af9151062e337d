import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.common import files
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.sources.tsv import WrongRow, _cells, _unquoted
from cyclepref.builder.stages.accounting import Accountant
from cyclepref.builder.stages.ingest import ingest
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import CompositionalPrompts, PromptFile, TsvColumn

# Lines as PartiPrompts has them: quotes are characters, a cell may begin with one, the note may be missing.
LINES = [
    "Prompt\tCategory\tChallenge\tNote",
    "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings",
    "a corgi’s head\tAnimals\tPerspective\t",
    'a cartoon of a dog saying "I see what you did there"\tAnimals\tWriting & Symbols\t',
    '"G I G G L E" painted as graffiti on a wall\tIllustrations\tWriting & Symbols\t',
    '7 dogs sitting around a poker table\tAnimals\tQuantity\tDescription of "Dogs Playing Poker"',
]


def tsv(tmp_path: Path, content: str | bytes, **settings):
    path = tmp_path / "list.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_source(TsvColumn(source="tsv", path=str(path), **settings), "text")


def everything(source) -> list:
    return list(source.read([name for name, _ in source.items()]))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_parti_prompts_are_read_as_they_are_written(tmp_path, end, mark):
    source = tsv(tmp_path, mark + end.join(LINES) + end)
    assert everything(source) == [line.split("\t")[0] for line in LINES[1:]]
    assert source.items()[0][0] == "list.tsv:2"


def test_rows_are_kept_by_their_cells_in_other_columns(tmp_path):
    source = tsv(tmp_path, "\n".join(LINES), where={"Category": ["Animals"], "Challenge": ["Perspective", "Quantity"]})
    assert everything(source) == ["a corgi’s head", "7 dogs sitting around a poker table"]


def test_another_column_can_be_the_prompt_and_cells_missing_at_the_end_are_empty(tmp_path):
    assert everything(tsv(tmp_path, "id\ttext\n1\ta cat\n2\n", column="text")) == ["a cat", ""]


def test_an_unknown_column_or_value_lists_those_that_there_are(tmp_path):
    content = "\n".join(LINES)
    with pytest.raises(RecipeError, match=r"column 'prompt' is not in .*: its columns are Prompt, Category, Chall"):
        tsv(tmp_path, content, column="prompt").items()
    with pytest.raises(RecipeError, match=r"inputs.where 'Categories' is not in .*: its columns are Prompt, Category"):
        tsv(tmp_path, content, where={"Categories": ["Animals"]}).items()
    with pytest.raises(RecipeError, match=r"where.Category: no row has 'Animal' .*there are Abstract, Animals, Ill"):
        tsv(tmp_path, content, where={"Category": ["Animals", "Animal"]}).items()


def test_what_is_no_table_is_one_clear_error(tmp_path):
    with pytest.raises(RecipeError, match="empty; its first line must name the columns"):
        tsv(tmp_path, "").items()
    with pytest.raises(RecipeError, match="'Prompt' is more than once in"):
        tsv(tmp_path, "Prompt\tPrompt\na\tb\n").items()
    with pytest.raises(RecipeError, match="no such file"):
        open_source(TsvColumn(source="tsv", path=str(tmp_path / "none.tsv")), "text").items()
    with pytest.raises(RecipeError, match="'tsv' gives texts, and this cycle starts from images: use images, dci"):
        open_source(TsvColumn(source="tsv", path="x"), "image")


def test_a_cell_over_several_lines_is_refused_before_its_halves_pass_for_prompts(tmp_path):
    with pytest.raises(RecipeError, match="line 2 opens a quote that it does not close"):
        tsv(tmp_path, 'Prompt\n"a cat\non a mat"\n').items()


def test_a_row_with_a_stray_tab_or_bytes_that_are_not_utf8_is_an_error_in_its_own_row(tmp_path):
    good, stray, broken = everything(tsv(tmp_path, b"Prompt\tCategory\na\tx\na\tcat\tx\n\xff\tx\n"))
    assert good == "a"
    assert isinstance(stray, WrongRow)
    assert str(stray) == "line 3 has 3 cells, but the header names 2 columns"
    assert isinstance(broken, UnicodeDecodeError)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), min_size=1, max_size=4))
def test_what_a_csv_writer_quotes_is_read_back(cells):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="").writerow(cells)
    assert [_unquoted(cell).decode() for cell in _cells(buffer.getvalue().encode())] == cells


@pytest.mark.parametrize("spec", [PromptFile(source="prompts", path=""), TsvColumn(source="tsv", path="")])
def test_a_file_that_is_read_a_block_at_a_time_is_opened_once_until_it_changes(tmp_path, monkeypatch, spec):
    path = tmp_path / "list.tsv"
    path.write_text("Prompt\na cat\na dog\n")
    source = open_source(spec.model_copy(update={"path": str(path)}), "text")
    opened = []
    read_file = files.read_file
    monkeypatch.setattr(files, "read_file", lambda path: opened.append(path) or read_file(path))
    assert [list(source.read([f"list.tsv:{n}"])) for n in (2, 3, 2)] == [["a cat"], ["a dog"], ["a cat"]]
    assert opened == [path]
    path.write_text("Prompt\na bird\n")
    assert list(source.read(["list.tsv:2"])) == ["a bird"]


@pytest.mark.usefixtures("ray_local")
def test_every_row_is_accounted_for_and_an_empty_prompt_is_a_failure(tmp_path):
    source = tsv(tmp_path, "Prompt\tCategory\na cat\tA\n\tA\na cat\tB\na dog\tB\n")
    accountant = Accountant(Store(tmp_path / "run"), max_failure_rate=0.5)
    inputs, count = ingest(source, source.items(), "text", accountant, Engine())
    assert (count.read, count.unique, count.duplicate, count.failed) == (4, 2, 1, 1)
    assert sorted(inputs["source"].to_pylist()) == ["list.tsv:2", "list.tsv:5"]
    [failure] = accountant.store.rows("failures").to_pylist()
    assert (failure["source"], failure["error_class"]) == ("list.tsv:3", "EmptyPrompt")


def test_compositional_prompts_are_their_own_names_and_a_limit_takes_the_first(tmp_path):
    spec = {"source": "compositional", "kinds": ["colour", "count"], "held_out": "only"}
    every = open_source(CompositionalPrompts(**spec), "text").items()
    some = open_source(CompositionalPrompts(**spec, limit=7), "text")
    assert len(every) == 5 * (9 + 6)
    assert some.items() == every[:7]
    assert everything(some) == [name for name, _ in every[:7]]


def test_more_compositional_prompts_than_there_are_is_an_error_with_their_number():
    spec = CompositionalPrompts(source="compositional", kinds=["colour"], limit=1000)
    with pytest.raises(
        RecipeError, match=r"limit is 1000, but these kinds with held_out 'exclude' give only 180 prompts"
    ):
        open_source(spec, "text").items()
