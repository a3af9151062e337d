"""Captioners on a server that speaks OpenAI's protocol: vLLM, SGLang, TGI, `transformers serve`, hosted APIs."""

import asyncio
import base64
import json
import os
from typing import Any

import httpx2
from PIL import Image

from cyclepref.builder.common.images import encode
from cyclepref.builder.models.cleaning import clean
from cyclepref.builder.models.http import Answer, BadAnswer, Http
from cyclepref.builder.models.protocols import Caption, NoOutput
from cyclepref.schemas.errors import CyclePrefError, Unavailable
from cyclepref.schemas.specs import EndpointSpec

# Characters of a server's message that a failure row keeps: some servers answer with the whole request.
MAX_WORDS = 300
# Servers differ in how many bits a seed may have; all accept 31.
SEED_BITS = 0x7FFFFFFF
# Shorter values are placeholders for a key ("EMPTY", "none") and may occur as words of a caption.
SHORTEST_SECRET = 8


class EndpointError(CyclePrefError, RuntimeError):
    """A request that the server did not answer with a caption, after all retries; `status` is the HTTP status."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class NoCaption(EndpointError, NoOutput):
    """The server answered without a text: it refused, filtered it, or used up its tokens on thinking."""


class ServerGone(EndpointError):
    """The server cannot be reached, does not know the key, or does not serve the model: no row is to blame."""


class Endpoint:
    """One served model, called with up to `spec.concurrency` requests at a time.

    Rows of a served model are only as deterministic as the server: the request depends on image, settings and seed (its
    low 31 bits) alone, but most servers batch requests as they come. A stored row is never requested again.

    Raises:
        Unavailable: if a first request fails: no server, no such model, a wrong key, or a model that takes no images.
    """

    def __init__(self, spec: EndpointSpec):
        self.spec = spec
        self._key = _key(spec)
        [answer] = asyncio.run(self._all([self._probe()]))
        if isinstance(answer, EndpointError) and not isinstance(answer, NoCaption):
            raise Unavailable(f"{answer}{self._way_out(answer)}")

    def caption(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption | EndpointError]:
        """One caption for each image, in order, or the error that its request ended with, so that a failed request does
        not lose the captions already paid for. A seed of None means greedy decoding.

        Raises:
            Unavailable: if no request of the batch reached the model.
        """
        results = asyncio.run(self._all(list(zip(images, seeds, strict=True))))
        if results and all(isinstance(result, ServerGone) for result in results):
            raise Unavailable(str(results[0]))
        return results

    def _probe(self) -> tuple[Image.Image, int | None]:
        """A first request, about a grey square. It shows whether the model works; some servers list models wrongly."""
        return Image.new("RGB", (64, 64), "grey"), None if self.spec.greedy else 0

    async def _all(self, asked: list[tuple[Image.Image, int | None]]) -> list[Caption | EndpointError]:
        """The result of each request, made `concurrency` at a time."""
        room = asyncio.Semaphore(self.spec.concurrency)
        async with self._http(max_retries=self.spec.max_retries, patience_s=self.spec.row_patience_s) as http:
            return await asyncio.gather(*(self._ask(http, room, image, seed) for image, seed in asked))

    def _http(self, **retries: float) -> Http:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return Http(self.spec.base_url, headers, self.spec.timeout_s, **retries)

    def _way_out(self, answer: EndpointError) -> str:
        """The way out for a server that does not work, as far as the first answer tells it."""
        if answer.status in (401, 403):
            name = self.spec.api_key_env
            return f" (check the key in {name})" if name else " (name the variable that holds a key in api_key_env)"
        if answer.status in (400, 404):
            served = self._served()
            return f" (it serves {served})" if served else " (check served_model and base_url, which often ends in /v1)"
        return " (is it running, and does base_url name it?)" if isinstance(answer, ServerGone) else ""

    def _served(self) -> str:
        """The names of the models that the server lists; empty if it lists none."""

        async def listed() -> Answer:
            async with self._http() as http:
                return await http.ask("GET", "/models")

        try:
            return ", ".join(str(model["id"]) for model in json.loads(asyncio.run(listed()).body)["data"])[:MAX_WORDS]
        except (httpx2.HTTPError, BadAnswer, TimeoutError, ValueError, KeyError, TypeError, RecursionError):
            return ""  # the list is only a hint; the error message is complete without it

    async def _ask(
        self, http: Http, room: asyncio.Semaphore, image: Image.Image, seed: int | None
    ) -> Caption | EndpointError:
        """One request with its retries. Every error is returned, since raising one would lose the answers of the whole
        batch. It holds text only, so that it contains neither the request nor its headers."""
        async with room:
            try:
                body = await asyncio.to_thread(self._body, image, seed)
                answer = await http.ask("POST", "/chat/completions", body)
            except MemoryError:
                raise  # a smaller batch may fit
            except Exception as error:
                return self._explain(error)
        return self._read(answer) if 200 <= answer.status < 300 else self._refused(answer)

    def _body(self, image: Image.Image, seed: int | None) -> dict[str, Any]:
        """A chat completion request (https://platform.openai.com/docs/api-reference/chat/create)."""
        spec = self.spec
        url = "data:image/png;base64," + base64.b64encode(encode(image)).decode("ascii")
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
        if spec.prompt:
            content.append({"type": "text", "text": spec.prompt})
        body = {
            "model": spec.served_model,
            "messages": [{"role": "user", "content": content}],
            spec.limit_parameter: spec.max_new_tokens,
            "temperature": spec.temperature,
        }
        if not spec.greedy:
            body |= {"top_p": spec.top_p, "seed": int(seed) & SEED_BITS}
        return body | spec.extra_body

    def _read(self, answer: Answer) -> Caption | EndpointError:
        """The caption in a chat completion."""
        try:
            choice = json.loads(answer.body)["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content"), message.get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return EndpointError(self._say(f"gave no chat completion: {answer.text}"))
        if not isinstance(text, str) or not text.strip() or reason == "content_filter":
            why = f"finish_reason {reason!r}" + (f", refusal {refusal!r}" if refusal else "")
            hint = ": raise max_new_tokens, or turn thinking off in extra_body" if reason == "length" else ""
            return NoCaption(self._say(f"answered without a text ({why}){hint}"))
        caption = Caption(clean(text), text, reason == "length")
        if len(self._key or "") >= SHORTEST_SECRET and any(self._key in said for said in (text, caption.text)):
            # Masking the key instead would paint, compare and publish a text that no model wrote.
            return EndpointError(self._say("repeated the key in its caption, which is not stored"))
        return caption

    def _refused(self, answer: Answer) -> EndpointError:
        """The error for an HTTP status other than success, after all tries."""
        kind = ServerGone if answer.status in (401, 404) else EndpointError
        return kind(self._say(f"answered {answer.status} {answer.phrase}: {_words(answer)}"), answer.status)

    def _explain(self, error: Exception) -> EndpointError:
        """Turn an exception of a request into an EndpointError."""
        tries = f"{self.spec.max_retries + 1} times" if self.spec.max_retries else "once"
        if isinstance(error, TimeoutError):
            return EndpointError(self._say(f"gave no answer within {self.spec.timeout_s:g} s, asked {tries}"))
        if isinstance(error, BadAnswer):
            return EndpointError(self._say(str(error)))
        if isinstance(error, httpx2.TransportError):
            return ServerGone(self._say(f"cannot be reached, tried {tries}: {type(error).__name__}: {error}"))
        return EndpointError(self._say(f"could not be asked: {type(error).__name__}: {error}"))

    def _say(self, what: str) -> str:
        """The server's name and one line of at most MAX_WORDS characters, with the key masked in case the server
        repeats it."""
        line = " ".join((what.replace(self._key, "***") if self._key else what).split())
        return f"{self.spec.name}: {self.spec.base_url} {line[:MAX_WORDS]}{'...' * (len(line) > MAX_WORDS)}"


def _key(spec: EndpointSpec) -> str | None:
    """The key in the variable that the spec names. It is checked here, since the HTTP library's error for a key that is
    not valid in a header would contain the key."""
    if spec.api_key_env is None:
        return None
    key = os.environ.get(spec.api_key_env, "").strip()
    if not key:
        raise Unavailable(
            f"{spec.name}: the environment variable {spec.api_key_env} (api_key_env) is empty or not set where the "
            "build's workers run: export it before the build, or on a cluster before `ray start` on every node"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise Unavailable(f"{spec.name}: the key in {spec.api_key_env} has characters that no key has: set it again")
    return key


def _words(answer: Answer) -> str:
    """A server's own message: `error.message` in the protocol, `error`, `detail` or `message` elsewhere."""
    try:
        body = json.loads(answer.body)
        for name in ("error", "detail", "message"):
            if isinstance(body, dict) and body.get(name):
                body = body[name]
        return body if isinstance(body, str) else json.dumps(body)
    except (ValueError, RecursionError):
        return answer.text
