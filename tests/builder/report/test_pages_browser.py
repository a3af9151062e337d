"""Pages as a person sees them, in a real browser: a report from a disk, the page of a build, an audit by keys."""

import random
import shutil
import socket
import threading
import time
from contextlib import closing

import pytest
import uvicorn
from synthetic_run import HOSTILE

from cyclepref.builder.report.audit.draw import draw
from cyclepref.builder.report.audit.serve import Desk
from cyclepref.builder.report.compare import compare
from cyclepref.builder.report.core import core
from cyclepref.builder.report.gallery import Candidate, Gallery, Pair, Shown
from cyclepref.builder.report.live import Window
from cyclepref.builder.report.page import render, write_page, write_pictures
from cyclepref.builder.report.report import report
from cyclepref.builder.run.audit import read_answers
from cyclepref.builder.run.store import Store
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import Pairing

pytestmark = pytest.mark.browser
READY = "body[data-ready]"


@pytest.fixture(scope="module")
def pages(made_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {name: report(run, folder / f"{name}.html").file.as_uri() for name, run in made_runs.items()}


@pytest.fixture
def served():
    """Serve an application; returns its address."""
    servers = []

    def start(app) -> str:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def count(page) -> str:
    return page.inner_text("#count")


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_a_report_opens_from_disk_without_a_network_and_without_a_complaint(pages, open_page, cycle):
    page = open_page(pages[cycle])
    page.wait_for_selector(READY)
    assert count(page) == "30 inputs"
    assert page.locator(".card .cell.chosen").count() > 0
    page.locator("#pictures").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-wins .main-svg")
    assert page.evaluate("getComputedStyle(document.querySelector('.thumb')).backgroundImage").startswith("url(")
    assert page.troubles == []


def test_filters_search_and_order_work(pages, open_page):
    page = open_page(pages["i2t2i"])
    page.wait_for_selector(READY)
    page.select_option("#f-category", "folder 3")
    page.wait_for_function("() => document.getElementById('count').textContent === '6 of 30 inputs'")
    page.fill("#f-text", "/13.png")
    page.wait_for_function("() => document.getElementById('count').textContent === '1 of 30 inputs'")
    page.click("text=Clear")
    page.wait_for_function("() => document.getElementById('count').textContent === '30 inputs'")
    page.fill("#f-low", "0.5")
    page.wait_for_function("() => !document.getElementById('count').textContent.startsWith('30 ')")
    page.fill("#f-low", "")
    page.select_option("#f-order", "name")
    page.wait_for_function("() => document.querySelector('.card .name').textContent === 'folder 0/0.png'")
    assert page.troubles == []


def test_a_pair_under_the_pointer_is_explained_and_keys_move(pages, open_page):
    page = open_page(pages["i2t2i"])
    page.wait_for_selector(READY)
    page.locator(".card .cell").first.hover()
    assert "closer by" in page.inner_text(".card .said")
    assert "2 seeds, noise" in page.inner_text(".card .said")
    page.locator("h1").click()
    for key, place in (("j", "0"), ("j", "1"), ("k", "0")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.at") == place
    page.keyboard.press("d")
    assert page.locator("dialog[open] .pair").count() == 3
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "f-text"
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    assert page.input_value("#f-order") == "random"
    assert page.troubles == []


def test_hostile_captions_file_names_and_model_names_do_nothing(pages, open_page):
    page = open_page(pages["hostile"])
    page.wait_for_selector(READY)
    page.keyboard.press("j")
    page.keyboard.press("d")
    page.keyboard.press("Escape")
    page.locator("#pictures").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-wins .main-svg")
    for id_ in page.evaluate("[...document.querySelectorAll('.plot')].map((node) => node.id)"):
        page.locator(f"#{id_}").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert page.evaluate("window.harm") is None
    assert page.locator("#cards script, #cards img, .plot a, #cards a, #cards svg").count() == 0
    said = page.inner_text("body")
    assert "<script>" in said
    assert not set("\u202e\u200f\u2066\x07\x1b") & set(said)
    assert page.troubles == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_ten_thousand_inputs_scroll(open_page, tmp_path):
    gallery, strip = _many(10_000)
    file = tmp_path / "many.html"
    strips = ((0, each.id, strip) for each in gallery.inputs)
    pictures = write_pictures(strips, file, lambda done: None)
    head = {"folder": "many", "story": "", "began": None, "updated": None, "code": None, "state": "finished",
            "error": None, "inputs": None, "stages": [], "pairs": [], "seconds": None, "priced": False, "notices": [],
            "failures": [], "models": []}  # fmt: skip
    write_page(file, render("many", [head], {"runs": [core(gallery, "many")]}, [], pictures, gallery="all"))
    assert file.stat().st_size < 50_000_000
    page = open_page(file.as_uri())
    page.wait_for_selector(READY, timeout=60_000)
    assert count(page) == "10,000 inputs"
    for share in (0.25, 0.5, 0.75, 1):
        page.evaluate(f"scrollTo({{top: {share} * document.documentElement.scrollHeight, behavior: 'instant'}})")
        page.wait_for_timeout(100)
    page.wait_for_selector(".card[aria-posinset='10000'] .cell")
    assert page.locator(".card").count() < 30
    page.fill("#f-text", "number 9876 ")
    page.wait_for_function("() => document.getElementById('count').textContent === '1 of 10,000 inputs'")
    assert page.troubles == []


def _many(inputs: int) -> tuple[Gallery, bytes]:
    """A gallery of so many inputs, and a strip that serves them all."""
    import io

    from PIL import Image

    rng, rows = random.Random(0), []
    for at in range(inputs):
        made = [Candidate(digest(at, n), digest(at, n, "c"), [f"model {n}"], 0, f"number {at} of {n}", None, False,
                          {"closeness": rng.random()}) for n in range(4)]  # fmt: skip
        pairs = [Pair(digest(at, "p"), 0, 1, rng.random(), 4, 0.01)]
        rows.append(Shown(digest(at), f"{at}.png", "", "train", None, ("part", at), made, pairs))
    buffer = io.BytesIO()
    Image.new("RGB", (640, 128), "teal").save(buffer, "WEBP")
    rule = Pairing(min_margin=0)
    higher = {"closeness": True}
    models = [f"model {n}" for n in range(4)]
    gallery = Gallery(CYCLES["i2t2i"], models, ["closeness"], "closeness", higher, rule, rows, inputs, True)
    return gallery, buffer.getvalue()


def test_pictures_in_a_folder_beside_the_page_are_shown(made_runs, open_page, tmp_path, monkeypatch):
    monkeypatch.setattr("cyclepref.builder.report.page.MOST_INLINE", 2_000)
    written = report(made_runs["i2t2i"], tmp_path / "a b%25.html")
    assert written.folder == tmp_path / "a b%25_files"
    page = open_page(written.file.as_uri())
    page.wait_for_selector(READY)
    loaded = """() => { const source = getComputedStyle(document.querySelector('.thumb')).backgroundImage.slice(5, -2);
        return new Promise((done) => { const image = new Image(); image.onload = () => done(image.width);
        image.onerror = () => done(0); image.src = source; }); }"""
    assert page.evaluate(loaded) == 4 * 128
    assert page.troubles == []


def test_two_runs_stand_side_by_side_with_what_changed(made_runs, open_page, tmp_path):
    from synthetic_run import synthetic_run

    other = synthetic_run(tmp_path / "other", "i2t2i", 25)
    page = open_page(compare(made_runs["i2t2i"], other, tmp_path / "both.html").file.as_uri())
    page.wait_for_selector(READY)
    assert count(page) == "25 inputs"
    assert page.locator(".card").first.locator(".cells").count() == 2
    page.select_option("#f-change", "changed")
    page.keyboard.press("Escape")
    assert "labels changed" in page.inner_text(".card")
    assert page.troubles == []


def test_the_page_of_a_build_shows_news_and_says_when_its_command_has_gone(made_runs, open_page, served, tmp_path):
    token = "of-a-test"
    page = open_page(f"{served(Window(made_runs['t2i2t'], token).app())}/?token={token}", offline=False)
    page.wait_for_selector(READY)
    page.wait_for_selector("#live-latest > div")
    assert count(page) == "30 inputs"
    assert page.troubles == []


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t", "hostile"])
def test_an_audit_is_labelled_by_keys_through_to_its_result(made_runs, open_page, served, cycle, tmp_path):
    store = Store(shutil.copytree(made_runs[cycle], tmp_path / "run"))
    app = Desk(store, draw(store, 6), "of-a-test", "run").app()
    page = open_page(f"{served(app)}/?token=of-a-test", offline=False)
    page.fill("#name", "anna")
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-pair]")
    for key in ("1", "2", "t", "s", "u", "1", "2", "1"):
        before = page.evaluate("document.body.dataset.pair")
        page.keyboard.press(key)
        page.wait_for_function("(before) => document.body.dataset.pair !== before", arg=before)
    page.wait_for_selector("#result p")
    assert "6 of 6 pairs are answered, 5 of them for one candidate" in page.inner_text("#result")
    assert "agrees with people on" in page.inner_text("#result")
    answers = [answer.answer for answer in read_answers(store)]
    assert answers == ["prefers", "prefers", "tie", "prefers", "prefers", "prefers"]
    assert page.evaluate("window.harm") is None
    assert page.troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out_by_axe(pages, made_runs, open_page, served, scheme, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(pages["hostile"], scheme=scheme)
    page.wait_for_selector(READY)
    page.locator("#pictures").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-wins .main-svg")
    page.evaluate("scrollTo({top: document.getElementById('gallery').offsetTop, behavior: 'instant'})")
    page.wait_for_timeout(200)
    watched = open_page(f"{served(Window(made_runs['i2t2i'], 't').app())}/?token=t", scheme=scheme, offline=False)
    watched.wait_for_selector(READY)
    store = Store(shutil.copytree(made_runs["t2i2t"], tmp_path / "run"))
    desk = Desk(store, draw(store, 6), "t", "run").app()
    asked = open_page(f"{served(desk)}/?token=t&name=anna", scheme=scheme, offline=False)
    asked.wait_for_selector("body[data-pair]")
    for each in (page, watched, asked):
        # Playwright's own evaluation passes the page's policy, which lets no other script in.
        found = Axe().run(each)
        assert [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found.response["violations"]] == []


def test_hostile_texts_of_the_tests_are_hostile():
    assert any("<script>" in text for text in HOSTILE)
    assert max(map(len, HOSTILE)) == 100_000
