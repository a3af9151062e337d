"""Pages as a person sees them, in a real browser: a report from a disk, the page of a build, an audit by keys.

Opening a page costs the most, so each is opened once, and tests find it as they would a fresh one. Nothing here sleeps:
a test waits for what must come.
"""

import io
import random
import shutil
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from PIL import Image
from synthetic_run import HOSTILE, synthetic_run

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
TOKEN = "of-a-test"
# Whatever the test before left open or chosen.
AS_FRESH = """() => { document.getElementById('details').close(); document.getElementById('filters').reset();
    scrollTo({top: 0, behavior: 'instant'}); return new Promise((done) => setTimeout(done, 0)); }"""
SHOWS_A_CARD = """() => [...document.querySelectorAll('.card')].some((card) => {
    const box = card.getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; })"""


@pytest.fixture(scope="module")
def served():
    """Serve an application; returns its address."""
    servers = []

    def start(app) -> str:
        # A browser that asks before the server is up waits in the queue of this socket.
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}/?token={TOKEN}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def window(made_runs, open_page, served, tmp_path_factory):
    """Pages that stay open, by name."""
    folder, opened = tmp_path_factory.mktemp("pages"), {}

    def address(name: str) -> str:
        if name == "watch":
            return served(Window(made_runs["t2i2t"], TOKEN).app())
        if name == "compare":
            other = synthetic_run(folder / "other", "i2t2i", 25)
            return compare(made_runs["i2t2i"], other, folder / "both.html").file.as_uri()
        return report(made_runs[name], folder / f"{name}.html").file.as_uri()

    def get(name: str):
        if name not in opened:
            opened[name] = open_page(address(name), offline=name != "watch")
            ready(opened[name])
        else:
            opened[name].evaluate(AS_FRESH)
        return opened[name]

    return get


def ready(page) -> None:
    page.wait_for_selector("body[data-ready]")


def counted(page, text: str) -> None:
    """Wait until so many inputs are shown."""
    page.wait_for_function("(text) => document.getElementById('count').textContent === text", arg=text)


def show_pictures(page) -> None:
    """Scroll through all pictures, each of which is drawn when it comes near."""
    for id_ in page.evaluate("[...document.querySelectorAll('.plot')].map((node) => node.id)"):
        page.evaluate("(id) => document.getElementById(id).scrollIntoView({behavior: 'instant'})", id_)
        page.wait_for_selector(f"#{id_} .main-svg")


def go_to(page, top: str) -> None:
    """Scroll to a place, and wait for the cards there if there are any."""
    page.evaluate(f"scrollTo({{top: {top}, behavior: 'instant'}})")
    page.wait_for_function(SHOWS_A_CARD)


def test_a_report_opens_from_disk_without_a_network_and_without_a_complaint(window):
    page = window("i2t2i")
    counted(page, "30 inputs")
    assert page.locator(".card .cell.chosen").count() > 0
    assert page.evaluate("getComputedStyle(document.querySelector('.thumb')).backgroundImage").startswith("url(")
    show_pictures(page)
    assert page.troubles == []


def test_filters_search_and_order_work(window):
    page = window("i2t2i")
    page.select_option("#f-category", "folder 3")
    counted(page, "6 of 30 inputs")
    page.fill("#f-text", "/13.png")
    counted(page, "1 of 30 inputs")
    page.click("text=Clear")
    counted(page, "30 inputs")
    page.fill("#f-low", "0.5")
    page.wait_for_function("() => !document.getElementById('count').textContent.startsWith('30 ')")
    page.fill("#f-low", "")
    page.select_option("#f-order", "name")
    page.wait_for_function("() => document.querySelector('.card .name').textContent === 'folder 0/0.png'")
    assert page.troubles == []


def test_inputs_on_which_a_witness_disagrees_are_found(window):
    page = window("i2t2i")
    page.select_option("#f-witness", "disagree")
    page.wait_for_function("() => !document.getElementById('count').textContent.startsWith('30 ')")
    odd = page.evaluate("parseInt(document.getElementById('count').textContent)")
    assert 0 < odd < 30
    page.locator(".card button", has_text="Details").first.click()
    page.click("dialog summary")
    assert "Distance disagrees" in page.inner_text("dialog")
    page.keyboard.press("Escape")
    page.select_option("#f-witness", "agree")
    page.wait_for_function("(odd) => !document.getElementById('count').textContent.startsWith(`${odd} of `)", arg=odd)
    assert "Distance agrees" in page.inner_text(".card .said")


def test_a_pair_under_the_pointer_is_explained_and_keys_move(window):
    page = window("i2t2i")
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


def test_hostile_captions_file_names_and_model_names_do_nothing(window):
    page = window("hostile")
    page.keyboard.press("j")
    page.keyboard.press("d")
    page.keyboard.press("Escape")
    show_pictures(page)
    assert page.evaluate("window.harm") is None
    assert page.locator("#cards script, #cards img, .plot a, #cards a, #cards svg").count() == 0
    said = page.inner_text("body")
    assert "<script>" in said
    assert not set("\u202e\u200f\u2066\x07\x1b") & set(said)
    assert page.troubles == []
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 800})
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
    ready(page)
    counted(page, "10,000 inputs")
    for share in (0.25, 0.5, 0.75, 1):
        go_to(page, f"{share} * document.documentElement.scrollHeight")
        assert page.locator(".card").count() < 30
    page.wait_for_selector(".card[aria-posinset='10000'] .cell")
    page.fill("#f-text", "number 9876 ")
    counted(page, "1 of 10,000 inputs")
    assert page.troubles == []


def _many(inputs: int) -> tuple[Gallery, bytes]:
    """A gallery of so many inputs, and a strip that serves them all."""
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


def test_the_other_cycle_is_shown_with_pictures_in_a_folder_beside_the_page(
    made_runs, open_page, tmp_path, monkeypatch
):
    monkeypatch.setattr("cyclepref.builder.report.page.MOST_INLINE", 2_000)
    written = report(made_runs["t2i2t"], tmp_path / "a b%25.html")
    assert written.folder == tmp_path / "a b%25_files"
    page = open_page(written.file.as_uri())
    ready(page)
    counted(page, "30 inputs")
    assert page.locator(".card .cell.chosen").count() > 0
    loaded = """() => { const source = getComputedStyle(document.querySelector('.thumb')).backgroundImage.slice(5, -2);
        return new Promise((done) => { const image = new Image(); image.onload = () => done(image.width);
        image.onerror = () => done(0); image.src = source; }); }"""
    assert page.evaluate(loaded) == 3 * 128
    assert page.troubles == []


def test_two_runs_stand_side_by_side_with_what_changed(window):
    page = window("compare")
    counted(page, "25 inputs")
    assert page.locator(".card").first.locator(".cells").count() == 2
    page.select_option("#f-change", "changed")
    page.wait_for_function("() => document.querySelector('.card').textContent.includes('labels changed')")
    assert page.troubles == []


def test_the_page_of_a_build_shows_news_and_says_when_its_command_has_gone(window):
    page = window("watch")
    page.wait_for_selector("#live-latest > div")
    counted(page, "30 inputs")
    assert page.troubles == []
    page.context.set_offline(True)
    page.wait_for_function("() => document.getElementById('live-state').textContent.includes('no longer answers')")
    page.context.set_offline(False)


@contextmanager
def asked(run, open_page, served, place):
    """The page of an audit of a copy of a run, and its store."""
    store = Store(shutil.copytree(run, place))
    page = open_page(served(Desk(store, draw(store, 6), TOKEN, "run").app()), offline=False)
    page.fill("#name", "anna")
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-pair]")
    yield page, store


@pytest.mark.parametrize("cycle", ["t2i2t", "hostile"])
def test_an_audit_is_labelled_by_keys_through_to_its_result(made_runs, open_page, served, cycle, tmp_path):
    with asked(made_runs[cycle], open_page, served, tmp_path / "run") as (page, store):
        shut_out = [_axe(page, scheme) for scheme in ("light", "dark")]
        assert shut_out == [[], []]
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


@pytest.mark.parametrize("name", ["hostile", "compare", "watch"])
def test_nobody_is_shut_out_by_axe(window, name):
    page = window(name)
    if name == "hostile":
        show_pictures(page)
    go_to(page, "document.getElementById('gallery').offsetTop")
    assert [_axe(page, scheme) for scheme in ("light", "dark")] == [[], []]


def _axe(page, scheme: str) -> list[tuple[str, list[str]]]:
    """What axe finds on a page: rules that are broken, and where."""
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    # Playwright's own evaluation passes the page's policy, which lets no other script in.
    found = Axe().run(page)
    return [(v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found.response["violations"]]


def test_hostile_texts_of_the_tests_are_hostile():
    assert any("<script>" in text for text in HOSTILE)
    assert max(map(len, HOSTILE)) == 100_000
