"""A server that is slow, endless or hostile: its answers cost their own rows, and bounded time and memory."""

import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from openai_server import KEY, PROBE, OpenAIServer, captions, completion, picture, spec

from cyclepref.builder.models import load_model
from cyclepref.builder.stages.steps import attempt
from cyclepref.schemas.errors import Unavailable

PICTURES = [picture(red) for red in range(5)]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    running = OpenAIServer()
    yield running
    running.stop()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DEEP = "[" * 200_000


def endless(connection) -> None:
    """A body that does not end."""
    connection.write(HEAD + b"\r\n")
    for _ in range(200):
        connection.write(b"x" * 2**20)


def bomb(connection) -> None:
    """200 KB of gzip that are 200 MB."""
    packer = zlib.compressobj(9, wbits=31)
    connection.write(HEAD + b"Content-Encoding: gzip\r\n\r\n")
    for _ in range(200):
        connection.write(packer.compress(bytes(2**20)))
    connection.write(packer.flush())


def broken_gzip(connection) -> None:
    connection.write(HEAD + b"Content-Encoding: gzip\r\n\r\n" + b"no gzip")


def dripping_body(connection) -> None:
    connection.write(HEAD + b"\r\n")
    drip(connection)


def dripping_headers(connection) -> None:
    connection.write(HEAD + b"X-Long: ")
    drip(connection)


def drip(connection) -> None:
    for _ in range(300):
        connection.write(b" ")
        connection.flush()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("answer", "message", "asked"),
    [
        (endless, "answered with more than 8,388,608 bytes", 1),
        (bomb, "answered with more than 8,388,608 bytes", 1),
        (broken_gzip, "answered with data that cannot be decompressed", 1),
        (dripping_body, "gave no answer within 1 s, asked 2 times", 2),
        (dripping_headers, "gave no answer within 1 s, asked 2 times", 2),
        ((200, {}, DEEP), "gave no chat completion: [[[", 1),
        ((200, {}, '{"choices": [{"message": {"content": ' + DEEP), "gave no chat completion", 1),
        ((400, {}, DEEP), "answered 400 Bad Request: [[[", 1),
        ((200, {}, "1" * 10_000), "gave no chat completion: 111", 1),
        ((302, {"Location": "/v1/chat/completions"}, ""), "where nothing is sent", 1),
        ((307, {"Location": "/v1/chat/completions"}, ""), "picture 1", 2),
        ((307, {"Location": "http://[:1"}, ""), "where nothing is sent", 1),
    ],
)
def test_a_hostile_answer_is_its_own_rows_failure_within_time_and_memory(server, answer, message, asked):
    endpoint = load_model(spec(server.url, timeout_s=1, max_retries=1))
    server.replies[1] = [answer] * (1 if message == "picture 1" else 2)
    began = time.monotonic()
    tracemalloc.start()
    results = captions(attempt(endpoint.caption, PICTURES, [None] * 5))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in results[1]
    assert [results[0], *results[2:]] == ["picture 0", "picture 2", "picture 3", "picture 4"]
    assert [len(server.times(red)) for red in range(5)] == [1, asked, 1, 1, 1]
    assert time.monotonic() - began < 8
    assert held < 80e6


def test_a_redirect_to_another_host_carries_neither_image_nor_key_there(server):
    elsewhere = OpenAIServer()
    endpoint = load_model(spec(server.url, api_key_env="CYCLEPREF_TEST_KEY"))
    for number, status in enumerate((301, 302, 303, 307, 308), start=1):
        server.replies[number] = [(status, {"Location": f"{elsewhere.url}/chat/completions?key={KEY}"}, "")]
    results = captions(endpoint.caption([picture(red) for red in range(1, 6)], [None] * 5))
    elsewhere.stop()
    assert elsewhere.asked == []
    assert {KEY in result for result in results} == {False}
    for result in results:
        assert f"redirects to {elsewhere.url}/chat/completions?key=***, where nothing is sent" in result
    server.replies[PROBE] = [(308, {"Location": elsewhere.url}, "")]
    with pytest.raises(Unavailable, match="if that is your server, name it in base_url"):
        load_model(spec(server.url))


def test_a_server_that_asks_for_more_patience_than_a_row_has_gets_all_of_it_and_one_more_try(server, monkeypatch):
    monkeypatch.setattr("cyclepref.schemas.specs.LONGEST_WAIT_S", 1)
    endpoint = load_model(spec(server.url, timeout_s=0.5, max_retries=1))
    for red, after in enumerate(("86400", "inf", "1e400", "Fri, 31 Dec 2199 23:59:59 GMT")):
        server.replies[red] = [(429, {"Retry-After": after}, "{}")]
    server.replies[4] = [(429, {"Retry-After": "86400"}, "{}")] * 2
    results = captions(endpoint.caption(PICTURES, [None] * 5))
    assert results[:4] == [f"picture {red}" for red in range(4)]
    assert "answered 429" in results[4]
    for red in range(5):
        first, second = server.times(red)
        assert 2 < second - first < 3.5  # 2 tries of 0.5 s and 1 s of waiting each, less the last try


@pytest.mark.parametrize("after", ["nan", "-5", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 99 Foo 1999"])
def test_a_retry_after_that_means_nothing_is_no_reason_to_wait(server, after):
    endpoint = load_model(spec(server.url))
    server.replies[1] = [(503, {"Retry-After": after}, "{}")]
    assert captions(endpoint.caption([picture(1)], [None])) == ["picture 1"]
    first, second = server.times(1)
    assert 0.3 < second - first < 2


@pytest.mark.parametrize("said", ["your key is {key}", "{key}", "{half}<|im_start|>{rest}"])
def test_a_caption_that_repeats_the_key_is_a_failure_that_does_not(server, monkeypatch, said):
    # Cleaning a caption would put the last one together if it did not leave a space.
    monkeypatch.setattr("cyclepref.builder.models.endpoint.clean", lambda text: text.replace("<|im_start|>", ""))
    endpoint = load_model(spec(server.url, api_key_env="CYCLEPREF_TEST_KEY"))
    server.replies[1] = [(200, {}, completion(said.format(key=KEY, half=KEY[:9], rest=KEY[9:])))]
    results = endpoint.caption([picture(1), picture(2)], [None] * 2)
    assert "repeated the key in its caption, which is not stored" in str(results[0])
    assert not any(part in str(results) for part in (KEY, KEY[:9], KEY[9:]))
    assert captions(results)[1] == "picture 2"


def test_a_word_that_stands_in_for_a_key_may_be_in_a_caption(server, monkeypatch):
    monkeypatch.setenv("NO_KEY", "picture")
    assert captions(load_model(spec(server.url, api_key_env="NO_KEY")).caption([picture(1)], [None])) == ["picture 1"]
