"""Whole builds with a captioner on a server: a scripted one, and the real `transformers serve`."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import ray
from openai_server import KEY, PROBE, OpenAIServer, picture

from cyclepref.builder.build import build
from cyclepref.builder.catalog.catalog import WEIGHTS
from cyclepref.builder.catalog.resolve import model_spec
from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.models import load_model
from cyclepref.builder.run.store import Store
from cyclepref.schemas.errors import Unavailable
from cyclepref.schemas.recipe import ModelChoice, Recipe, parse_recipe

pytestmark = pytest.mark.usefixtures("ray_local")


def recipe(inputs: dict, **settings) -> Recipe:
    """A build of two captioners: the shipped LLaVA, and one on a server."""
    return parse_recipe(
        {
            "name": "test",
            "cycle": "i2t2i",
            "inputs": inputs,
            "forward": [
                {"model": "shapeworld-llava"},
                {"model": "openai-endpoint", "name": "served", "settings": settings},
            ],
            "backward": {"model": "shapeworld-sd3", "settings": {"steps": 1}},
            "metric": {"metric": "lpips-shapeworld"},
            "pairs": {"min_margin": 0.0, "poor_chosen": None},
            "max_failure_rate": 0.25,
        }
    )


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    running = OpenAIServer()
    yield running
    running.stop()


@pytest.fixture
def photos(tmp_path) -> dict:
    """Four plain pictures."""
    (tmp_path / "photos").mkdir()
    for red in range(4):
        picture(red).resize((64, 64)).save(tmp_path / "photos" / f"{red}.png")
    return {"source": "images", "path": str(tmp_path / "photos")}


def files_with(secret: str, folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_failing_request_is_a_failure_row_and_the_key_is_in_no_file(server, photos, tmp_path, capfd, engine):
    server.replies[2] = ["echo"]
    settings = {"base_url": server.url, "served_model": "qwen", "api_key_env": "CYCLEPREF_TEST_KEY", "concurrency": 2}
    report = build(recipe(photos, **settings), tmp_path / "run", engine=engine)
    assert report["counts"]["candidates"]["served"] == {"wanted": 4, "ok": 3, "failed": 1, "reused": 0}
    [failure] = Store(tmp_path / "run").rows("failures").to_pylist()
    assert (failure["model"], failure["error_class"]) == ("served", "EndpointError")
    assert "answered 400 Bad Request: bad request with" in failure["message"]
    asked = [red for red, headers, _, _ in server.asked if headers["authorization"] == f"Bearer {KEY}"]
    assert sorted(asked) == [0, 1, 2, 3, PROBE]
    logs = Path(ray._private.worker._global_node.get_session_dir_path())
    assert files_with("qwen", tmp_path / "run")
    assert files_with(KEY, tmp_path / "run") + files_with(KEY, logs) == []
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err


def test_a_server_that_refuses_the_key_stops_the_build_with_one_line(server, photos, tmp_path, engine):
    server.replies[PROBE] = [(401, {}, '{"error": {"message": "unknown key"}}')]
    message = r"^a worker failed: .*served: \S+ answered 401 Unauthorized: unknown key \(name the variable [^\n]*$"
    with pytest.raises(EngineError, match=message):
        build(recipe(photos, base_url=server.url, served_model="qwen"), tmp_path / "run", engine=engine)
    assert Store(tmp_path / "run").rows("failures").num_rows == 0


@pytest.fixture(scope="module")
def transformers_serve() -> Iterator[str]:
    """`transformers serve` with the shipped LLaVA; yields its address."""
    pytest.importorskip("uvicorn", reason="transformers serve needs `pip install 'transformers[serving]'`")
    pytest.importorskip("fastapi", reason="transformers serve needs `pip install 'transformers[serving]'`")
    from transformers.cli.serve import Serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Serve(str(WEIGHTS / "llava"), host="127.0.0.1", port=port, device="cpu", non_blocking=True)
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except URLError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/v1"
    running.kill_server()


SERVED = {"served_model": str(WEIGHTS / "llava"), "prompt": "describe the picture", "max_new_tokens": 16}


@pytest.mark.slow
def test_a_model_captions_the_same_behind_transformers_serve_as_it_does_here(transformers_serve, tmp_path, engine):
    settings = {**SERVED, "api_key_env": "CYCLEPREF_TEST_KEY", "base_url": transformers_serve}
    build(recipe({"source": "shapeworld", "limit": 6}, **settings), tmp_path / "run", engine=engine)
    rows = Store(tmp_path / "run").read_view("candidates").to_pylist()
    by_model = {model: {row["input_id"]: (row["text"], row["truncated"]) for row in rows if row["model"] == model}
                for model in ("served", "shapeworld-llava")}  # fmt: skip
    assert len(by_model["served"]) == 6
    assert by_model["served"] == by_model["shapeworld-llava"]
    assert {row["status"] for row in rows} == {"ok"}


def test_transformers_serve_marks_a_truncated_caption_and_refuses_another_model(transformers_serve):
    def endpoint(**settings):
        settings = {**SERVED, "base_url": transformers_serve, **settings}
        return load_model(model_spec(ModelChoice(model="openai-endpoint", settings=settings), "captioner"))

    [short] = endpoint(max_new_tokens=2).caption([picture(1).resize((64, 64))], [None])
    assert short.truncated
    with pytest.raises(Unavailable, match="400 Bad Request: Server is pinned to"):
        endpoint(served_model="another")
