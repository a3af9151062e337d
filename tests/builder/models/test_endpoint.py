"""A captioner on a server: what is sent, what becomes of every kind of answer, and a key that nothing repeats."""

import base64
import io
import json
import pickle
from collections.abc import Iterator

import pyarrow as pa
import pytest
from openai_server import KEY, PROBE, OpenAIServer, captions, completion, picture, spec
from PIL import Image

from cyclepref.builder.catalog.resolve import model_spec, resolve
from cyclepref.builder.common.images import encode
from cyclepref.builder.engine.task import Trouble
from cyclepref.builder.models import load_model
from cyclepref.builder.models.protocols import Caption
from cyclepref.builder.run.content import Contents
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.generate import Generator, write_generations
from cyclepref.builder.stages.steps import attempt
from cyclepref.schemas.errors import Unavailable
from cyclepref.schemas.recipe import ModelChoice, RecipeError
from cyclepref.schemas.specs import EndpointSpec

QUICK = {"retry-after-ms": "10"}
PICTURES = [picture(red) for red in range(5)]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    running = OpenAIServer()
    yield running
    running.stop()


# ---- what is asked ---------------------------------------------------------------------------------------------


def test_a_request_is_one_lossless_image_the_prompt_and_the_settings(server):
    made = load_model(spec(server.url, extra_body={"top_k": 3})).caption([picture(7)], [None])
    assert made == [Caption("picture 7", "picture 7", False)]
    _, _, body, _ = server.asked[-1]
    [message] = body.pop("messages")
    assert body == {"model": "qwen", "max_tokens": 77, "temperature": 0, "top_k": 3}
    image, text = message["content"]
    png = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(png)).tobytes() == picture(7).tobytes()
    assert text == {"type": "text", "text": "what is this?"}


def test_a_sampled_caption_sends_the_low_bits_of_its_seed(server):
    settings = {"temperature": 0.7, "top_p": 0.9, "limit_parameter": "max_completion_tokens"}
    load_model(spec(server.url, **settings)).caption([picture(7)], [2**62 + 5])
    _, _, body, _ = server.asked[-1]
    del body["messages"]
    assert body == {"model": "qwen", "max_completion_tokens": 77, "temperature": 0.7, "top_p": 0.9, "seed": 5}


def test_captions_come_in_order_and_requests_never_exceed_the_limit(server):
    endpoint = load_model(spec(server.url, concurrency=3))
    server.seconds = 0.05
    pictures = [picture(red) for red in range(20)]
    assert captions(endpoint.caption(pictures, [None] * 20)) == [f"picture {red}" for red in range(20)]
    assert server.most_at_once == 3


def test_no_key_is_sent_unless_the_settings_name_its_variable(server, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-another-service")
    load_model(spec(server.url))
    assert "of-another-service" not in str(server.asked)
    assert "authorization" not in server.asked[-1][1]
    load_model(spec(server.url, api_key_env="CYCLEPREF_TEST_KEY"))
    assert server.asked[-1][1]["authorization"] == f"Bearer {KEY}"


# ---- what is answered ------------------------------------------------------------------------------------------


def test_a_caption_is_cleaned_and_one_that_ended_by_token_limit_is_marked(server):
    server.replies[1] = [(200, {}, completion(" a <|im_start|>\n cat", "length"))]
    made = load_model(spec(server.url)).caption([picture(1)], [None])
    assert made == [Caption("a cat", " a <|im_start|>\n cat", True)]


def test_a_busy_or_failing_server_is_asked_again_after_the_time_it_says(server):
    endpoint = load_model(spec(server.url))
    server.replies[0] = [(429, {"Retry-After": "1"}, "{}")]
    server.replies[1] = [(500, QUICK, "{}"), (500, QUICK, "{}")]
    server.replies[2] = [(503, {}, "{}")]
    assert captions(endpoint.caption(PICTURES, [None] * 5)) == [f"picture {red}" for red in range(5)]
    first, second = server.times(0)
    assert second - first >= 1
    assert len(server.times(1)) == 3
    first, second = server.times(2)
    assert second - first >= 0.3


def test_a_row_that_fails_says_why_and_no_other_is_asked_for_again(server):
    endpoint = load_model(spec(server.url, timeout_s=0.5, max_retries=1, concurrency=2))
    answers = {
        1: (400, {}, '{"error": {"message": "image too small"}}'),
        2: (200, {"Content-Type": "text/html"}, "<html>a captive portal</html>"),
        3: (200, {}, '{"choices": []}'),
        4: (200, {}, completion(None, "content_filter")),
        5: (200, {}, completion("", "length")),
        6: (200, {}, completion(None, refusal="I cannot help with that")),
        7: (422, {}, '{"detail": [{"msg": "too long", "input": "' + "x" * 5000 + '"}]}'),
    }
    server.replies.update({red: [answer] for red, answer in answers.items()})
    server.replies[8] = ["hang", "hang"]
    server.replies[9] = [(429, QUICK, '{"error": "out of quota"}')] * 2
    results = captions(attempt(endpoint.caption, [picture(red) for red in range(11)], [None] * 11))
    at = f"served: {server.url}"
    assert results[0] == "picture 0"
    assert results[10] == "picture 10"
    assert results[1] == f"EndpointError: {at} answered 400 Bad Request: image too small"
    assert results[2] == f"EndpointError: {at} gave no chat completion: <html>a captive portal</html>"
    assert "no chat completion" in results[3]
    assert results[4] == f"NoCaption: {at} answered without a text (finish_reason 'content_filter')"
    assert "raise max_new_tokens, or turn thinking off in extra_body" in results[5]
    assert "refusal 'I cannot help with that'" in results[6]
    assert "answered 422" in results[7]
    assert len(results[7]) < 400
    assert results[8] == f"EndpointError: {at} gave no answer within 0.5 s, asked 2 times"
    assert results[9] == f"EndpointError: {at} answered 429 Too Many Requests: out of quota"
    assert [len(server.times(red)) for red in range(11)] == [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 1]


# ---- a server that is not there --------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_told_at_load(server):
    server.stop()
    message = r"served: http://127.0.0.1:\d+/v1 cannot be reached, tried once: ConnectError: .*\(is it running"
    with pytest.raises(Unavailable, match=message):
        load_model(spec(server.url, max_retries=0))


@pytest.mark.parametrize(
    ("status", "settings", "message"),
    [
        (401, {}, r"401 Unauthorized: no \(name the variable that holds a key in api_key_env\)"),
        (403, {"api_key_env": "CYCLEPREF_TEST_KEY"}, r"403 Forbidden: no \(check the key in CYCLEPREF_TEST_KEY\)"),
        (404, {}, r"404 Not Found: no \(it serves qwen, gemma\)"),
        (500, {"max_retries": 0}, "500 Internal Server Error: no"),
    ],
)
def test_a_server_that_will_not_answer_is_told_at_load_with_the_way_out(server, status, settings, message):
    server.replies[PROBE] = [(status, {}, '{"error": {"message": "no"}}')]
    with pytest.raises(Unavailable, match=message):
        load_model(spec(server.url, **settings))


def test_a_first_picture_without_a_caption_is_no_reason_to_stop(server):
    server.replies[PROBE] = [(200, {}, completion("", "length"))]
    assert captions(load_model(spec(server.url)).caption([picture(1)], [None])) == ["picture 1"]


def test_a_server_that_goes_away_stops_the_build_and_fails_no_row(server):
    endpoint = load_model(spec(server.url, max_retries=0))
    server.replies[0] = [(401, {}, "{}")]
    results = captions(attempt(endpoint.caption, PICTURES, [None] * 5))
    assert results[0].startswith("ServerGone: served: ")
    assert results[1:] == ["picture 1", "picture 2", "picture 3", "picture 4"]
    server.stop()
    with pytest.raises(Unavailable, match=r"served: .* cannot be reached"):
        attempt(endpoint.caption, PICTURES, [None] * 5)


# ---- the key ---------------------------------------------------------------------------------------------------


def test_the_key_is_in_no_error_even_if_the_server_repeats_it(server):
    endpoint = load_model(spec(server.url, api_key_env="CYCLEPREF_TEST_KEY"))
    server.replies[1] = ["echo"]
    [error] = endpoint.caption([picture(1)], [None])
    assert "Bearer ***" in str(error)
    assert KEY.encode() not in pickle.dumps(error) + repr(vars(error)).encode()
    assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)


@pytest.mark.parametrize(
    ("key", "message"),
    [("", "is empty or not set"), ("two\nlines", "characters that no key has"), ("kéy", "characters that no key has")],
)
def test_a_key_that_cannot_be_sent_is_told_without_it(server, monkeypatch, key, message):
    monkeypatch.setenv("ODD_KEY", key)
    with pytest.raises(Unavailable, match=message) as caught:
        load_model(spec(server.url, api_key_env="ODD_KEY"))
    assert not key or key not in str(caught.value)


# ---- settings --------------------------------------------------------------------------------------------------


def choose(**settings) -> EndpointSpec:
    return model_spec(ModelChoice(model="openai-endpoint", name="qwen", settings=settings), "captioner")


GIVEN = {"base_url": "http://localhost:8000/v1", "served_model": "qwen"}


def test_a_fingerprint_sees_what_is_asked_and_not_where_or_how():
    def print_of(**settings) -> str:
        return resolve(choose(**{**GIVEN, **settings}), {}).fingerprint

    how = {
        "concurrency": 2,
        "timeout_s": 9,
        "max_retries": 1,
        "api_key_env": "A_KEY",
        "batch_size": 3,
        "load_timeout_s": 7,
    }
    assert print_of() == print_of(base_url="https://elsewhere.example/v1/") == print_of(**how)
    what = [
        {"served_model": "gemma"}, {"revision": "2"}, {"prompt": "?"}, {"max_new_tokens": 9}, {"temperature": 1},
        {"temperature": 1, "top_p": 0.5}, {"extra_body": {"top_k": 1}}, {"limit_parameter": "max_completion_tokens"},
    ]  # fmt: skip
    assert len({print_of(), *(print_of(**settings) for settings in what)}) == len(what) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"qwen: settings: an endpoint needs base_url and served_model in its settings, for example"),
        ({"base_url": GIVEN["base_url"]}, "needs base_url and served_model"),
        ({**GIVEN, "base_url": "localhost:8000"}, "settings.base_url: .*must be an http or https address"),
        ({**GIVEN, "base_url": "http://me:secret@host/v1"}, "settings.base_url: .*no user, password or query"),
        ({**GIVEN, "base_url": "http://host/v1?key=secret"}, "settings.base_url: .*a key is given by api_key_env"),
        ({**GIVEN, "api_key_env": "sk-secret"}, "settings.api_key_env: .*never the key itself"),
        ({**GIVEN, "api_key_env": "hf_secret"}, "settings.api_key_env: .*never the key itself"),
        ({**GIVEN, "api_key": "secret"}, r"settings.api_key: unknown setting \(did you mean 'api_key_env'"),
        ({**GIVEN, "extra_body": {"seed": 1, "model": "x"}}, "settings.extra_body: .*must not have model, seed"),
        ({**GIVEN, "num_gpus": 1}, "settings.num_gpus: must be 0 or less"),
    ],
)
def test_wrong_settings_are_explained_without_repeating_a_secret(settings, message):
    with pytest.raises(RecipeError, match=message) as caught:
        choose(**settings)
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"


def test_samples_need_a_temperature():
    choice = ModelChoice(model="openai-endpoint", samples=2, settings=GIVEN)
    with pytest.raises(RecipeError, match="samples: is 2, but greedy decoding gives one caption"):
        model_spec(choice, "captioner")


def test_half_a_character_or_too_many_in_an_answer_fail_their_own_rows_and_no_other(server, tmp_path):
    server.replies[1] = [(200, {}, completion("a smiling face \ud83d"))]
    server.replies[2] = [(400, {}, json.dumps({"error": {"message": "no such emoji: \ud83d"}}))]
    server.replies[3] = [(200, {}, completion("a cat " * 5000))]
    block = pa.table(
        {
            "generation_id": ["g0", "g1", "g2", "g3"], "source_id": ["s0", "s1", "s2", "s3"], "model": ["served"] * 4,
            "attempt": [1] * 4, "seed": pa.nulls(4, pa.int64()), "source_text": pa.nulls(4, pa.string()),
            "source_image": [encode(each) for each in PICTURES[:4]], "fingerprint": ["f"] * 4,
        }
    )  # fmt: skip
    store = Store(tmp_path)
    made = Generator(spec(server.url))(block, Contents(block, ["source"], 4))
    receipt = write_generations(block, made, 0, store, "candidates").to_pylist()
    assert [(row["done"], row["failed"]) for row in receipt] == [(4, 3)]
    assert store.rows("generations")["text"].to_pylist() == ["picture 0"]
    failures = {row["id"]: row for row in store.rows("failures").to_pylist()}
    assert failures["g1"]["error_class"] == "NotUnicode"
    assert r"a smiling face \ud83d" in failures["g1"]["message"]
    assert r"no such emoji: \ud83d" in failures["g2"]["message"]
    assert failures["g3"]["error_class"] == "LongCaption"
    assert failures["g3"]["message"] == "the caption has 30,000 characters, more than 20,000: lower max_new_tokens"


def test_half_a_character_in_an_error_of_all_rows_can_be_handed_on():
    assert Trouble.of(Unavailable("no such model: \ud83d")).message == r"no such model: \ud83d"
