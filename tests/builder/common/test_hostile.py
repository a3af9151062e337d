"""Captions, file names and metadata are data: they are shown, and have no other effect."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image, ImageDraw
from rich.console import Console

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.common import progress
from cyclepref.builder.common.markdown import escape
from cyclepref.builder.dataset import examples
from cyclepref.builder.dataset.card import Facts, card
from cyclepref.builder.dataset.format import metadata
from cyclepref.builder.dataset.statistics import Tally
from cyclepref.builder.pairing.pair import Direction
from cyclepref.builder.reward.card import write_card
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant, BuildError, Work
from cyclepref.builder.stages.steps import failure, receipt
from cyclepref.jobs.cli import main
from cyclepref.jobs.run_build import counts_table
from cyclepref.schemas import records
from cyclepref.schemas.errors import visible
from cyclepref.schemas.recipe import parse_recipe
from cyclepref.schemas.resolved import Resolved

HOSTILE = [
    "[click](https://evil.example)", "![](https://evil.example/a.png)", "<script>alert(1)</script>", "<img src=x>",
    "a | b | c", "a\n\n# heading", "---\nlicense: mit\n---", "`code` ``more``", "```\nfence", "**bold** _it_ ~~no~~",
    "https://evil.example", "www.evil.example", "@everyone", "&lt;b&gt;", "\\", "\\|", "[x]: https://evil", "<!--",
    "[bold red]name[/]", "[/nothing]", "[link=https://evil.example]x[/link]", "\x1b[31m\x1b]0;title\x07", "\x9b2J",
    "\r\b", ":warning:",
    "\u202egnp.exe", "\u2066x", "$x$", "\0", "- item", "1. item", "> quote", "a" * 5000, "\u2028", "",
]  # fmt: skip
ACTIVE = {
    "link_open", "image", "html_inline", "html_block", "heading_open", "fence", "code_block", "code_inline", "em_open",
    "strong_open", "s_open", "hr", "bullet_list_open", "ordered_list_open", "blockquote_open", "table_open",
}  # fmt: skip
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.lists(st.sampled_from(HOSTILE), max_size=3).map("".join), st.text())


def tokens(markdown: str) -> list:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = parser.parse(markdown)
    return [*found, *(child for token in found for child in token.children or [])]


def shape(markdown: str) -> list[str]:
    """What a renderer makes of it, apart from the texts."""
    return [token.type for token in tokens(markdown) if token.type not in ("text", "text_special", "softbreak")]


def run_card(name: str, model: str) -> str:
    recipe = parse_recipe(
        {
            "name": "test", "cycle": "i2t2i", "inputs": {"source": "shapeworld", "limit": 1},
            "forward": [{"model": "shapeworld-blip", "name": name}, {"model": "shapeworld-llava"}],
            "backward": {"model": "shapeworld-sd3"}, "metric": {"metric": "lpips-shapeworld"},
            "pairs": {"min_margin": 0.0, "poor_chosen": None},
            "safety": {"model": f"a/{model}", "label": name, "threshold": 0.5},
        }
    )  # fmt: skip
    spec = CATALOG["shapeworld-blip"].model_copy(update={"name": name})
    one = {"wanted": 1, "ok": 1, "failed": 0}
    stages = {stage: {name: one} for stage in ("candidates", "reconstructions", "scores")}
    inputs = dict.fromkeys(("read", "unique", "duplicate", "failed"), 1)
    counts = {**stages, "inputs": inputs, "pairs": {"possible": 1, "kept": 1}}
    models = [Resolved(spec, {"repo": model, "revision": model, "prompt": name})]
    metric = Resolved(CATALOG["sbert"].model_copy(update={"name": name}), {})
    facts = Facts(recipe, models, [metric], Direction("sbert", "", True), counts, "1", flagged={"images": 1})
    tally = Tally()
    candidate = {"generation_id": "a", "text": name, "models": [name], "scores": [{"metric": name, "value": 0.5}]}
    tally.add("train", {"input_id": "x", "candidates": [candidate, {**candidate, "generation_id": "b"}]}, [])
    return card(facts, tally.result(), {"scores": "pictures/scores.png"}, ("rankings", "pairs"))


@settings(max_examples=150)
@given(TEXTS, TEXTS)
def test_no_name_changes_what_a_dataset_card_is_made_of(name, model):
    text = run_card(name, model)
    assert shape(text) == shape(run_card("name", "model"))
    head = metadata({"train": {"inputs": 1, "pairs": 1}}, ("rankings", "pairs"), "edition", ("mit", "mit"))
    _, front, rest = (head + text).split("---\n", 2)
    keys = {"license", "size_categories", "task_categories", "tags", "configs", "cyclepref"}
    assert set(yaml.safe_load(front)) == keys
    assert rest == text


@settings(max_examples=150)
@given(TEXTS)
def test_escaped_text_is_read_as_the_text_that_it_is(text):
    shown = [
        token for token in tokens(f"| {escape(text)} | x |\n| --- | --- |\n") if token.type in ("text", "text_special")
    ]
    assert not {token.type for token in tokens("a " + escape(text))} & ACTIVE
    assert (
        "".join(t.content for t in shown).removesuffix("x").strip() == visible(" ".join(text.split()), keep="").strip()
    )
    for bare in ("://", "www.", "@"):
        assert bare not in escape(text).lower()


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_changes_what_a_reward_models_card_is_made_of(tmp_path, name):
    def made(text: str) -> list[str]:
        result = {text: {"inputs": 1, "pairs": 1, "accuracy": 0.5}}
        accuracy = {"pairwise_accuracy": {text: result}, "pairwise_accuracy_before_training": {text: result}}
        told = {"start": f"no/{text[:99]}".replace("\0", ""), "kept": text, "settings": {"loss": "margin"}}
        told["datasets"] = [text]
        write_card(tmp_path, {**accuracy, **told})
        return shape((tmp_path / "README.md").read_text())

    assert made(name) == made("name")


def printed(what, width: int = 200) -> str:
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, color_system="truecolor")
    screen.print(what)
    return screen.file.getvalue()


@settings(max_examples=150)
@given(TEXTS)
def test_a_name_on_the_terminal_is_neither_markup_nor_a_control_sequence(name):
    shown = printed(progress.plain(name), width=99_999)
    assert shown == visible(name, keep="") + "\n"
    assert not set(shown) & {"\x1b", "\x9b", "\x07", "\b", "\r", "\u202e", "\u2066"}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_table_of_counts_shows_any_name(name):
    one = {"wanted": 1, "ok": 1, "failed": 0, "reused": 0}
    counts = {
        "inputs": {"read": 1, "unique": 1, "duplicate": 0, "failed": 0},
        **{stage: {name: one} for stage in ("candidates", "reconstructions", "scores")},
        "pairs": {"possible": 1, "kept": 1, "equal_outputs": 0, "too_close": 0, "poor_chosen": 0},
    }
    shown = printed(counts_table(name, counts))
    # rich's own colours are all that there is.
    assert {part[0] for part in shown.split("\x1b")[1:]} <= {"["}
    assert "\x1b]" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown


def test_an_error_on_the_terminal_has_no_control_sequence(tmp_path, capsys):
    name = "\x1b]0;owned\x07\x1b[2J\u202e[bold].yaml"
    assert main(["build", str(tmp_path / name), "--out", str(tmp_path / "run")]) == 1
    shown = capsys.readouterr().err
    assert r"\x1b]0;owned\x07\x1b[2J\u202e[bold].yaml" in shown
    assert shown.replace("\n", "").isprintable()


def test_reasons_of_failures_in_an_error_are_one_line_each(tmp_path):
    store = Store(tmp_path)
    row = {"source_key": "1", "model": "image", "source": "a\nb", "error_class": "Broken", "attempt": 1}
    row = failure({**row, "message": "\x1b[31mfirst\nerror: a line of its own"}, "source_key", "inputs", "source")
    store.write_part("failures", pa.Table.from_pylist([row], schema=records.FAILURE))
    wanted = pa.table({"source_key": ["1", "2"], "model": ["image"] * 2})
    with pytest.raises(BuildError) as caught:
        Accountant(store, 0.0).run(
            Work("inputs", "sources", "source_key", wanted), lambda todo: [receipt(wanted[:1], 0)]
        )
    assert r"1 x Broken: \x1b[31mfirst\nerror: a line of its own" in str(caught.value)


@pytest.mark.parametrize("size", [(1, 100), (100, 1), (1, 1), (64, 64)])
def test_any_picture_and_any_text_can_be_drawn(size):
    sheet = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(sheet)
    assert examples._content(sheet, draw, 5, 5, Image.new("RGB", size, "red"), "black") < 200
    assert sheet.getpixel((70, 70)) == (255, 0, 0)
    for text in HOSTILE:
        assert examples._content(sheet, draw, 5, 5, text, "black") < 200


@pytest.mark.slow  # test_ray_job looks for one in what a job leaves
def test_tokens_in_the_environment_reach_no_file_and_no_output(tmp_path):
    """A build in a process of its own, its Ray workers included; one input fails, so that there is an error to show."""
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY")
    secrets = {name: f"hf_{name}_3c1fa9d0e2" for name in names}
    photos = tmp_path / "photos"
    photos.mkdir()
    for at, colour in enumerate(("red", "blue")):
        Image.new("RGB", (64, 64), colour).save(photos / f"{at}.png")
    (photos / "broken.png").write_bytes(b"no picture")
    recipe = {
        "name": "test", "cycle": "i2t2i", "inputs": {"source": "images", "path": str(photos)},
        "forward": [{"model": "shapeworld-blip"}, {"model": "shapeworld-blip-early"}],
        "backward": {"model": "shapeworld-sd3", "settings": {"steps": 1}},
        "metric": {"metric": "lpips-shapeworld"}, "pairs": {"min_margin": 0.0, "poor_chosen": None},
        "max_failure_rate": 0.5,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "cyclepref.jobs.cli", "build", "-v", str(tmp_path / "recipe.yaml"), "--out", "run"]
    root = Path(__file__).parents[3]
    environment = {**os.environ, **secrets, "PYTHONPATH": str(root)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 8
    everything = b"".join(path.read_bytes() for path in files) + (run.stdout + run.stderr).encode()
    rows = [Store(tmp_path / "run").rows(table).to_pylist() for table in ("failures", "models", "sources")]
    everything += json.dumps(rows).encode()  # parquet packs its texts
    assert [name for name, secret in secrets.items() if secret.encode() in everything] == []
