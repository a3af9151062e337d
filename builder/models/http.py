"""HTTP with a server that may be slow, endless or hostile: every request has a deadline and a limit on the answer's
size, and is sent only to the address that the user named."""

import asyncio
import email.utils
import math
import random
import time
from typing import Any, NamedTuple

import httpx2

from cyclepref.builder import __version__

# Bytes of an answer after decompression, many times those of a chat completion with its thinking. It is parsed in
# memory.
MAX_BODY = 8 * 2**20
# A server may redirect a request to another of its own paths, for example to add a slash at the end.
MAX_REDIRECTS = 3
# Statuses besides 5xx after which a retry may succeed: a time-out, a lock, a rate limit.
PASSING = {408, 409, 429}
FIRST_WAIT_S, MAX_BACKOFF_S = 0.5, 8.0


class BadAnswer(Exception):
    """An answer after which a retry is of no use."""


class Answer(NamedTuple):
    """The parts of a response that are used; `body` is decompressed."""

    status: int
    phrase: str
    headers: httpx2.Headers
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, for messages."""
        return self.body.decode("utf-8", "replace")


class Http:
    """Requests to one server. An async context manager; use it within one event loop.

    `timeout_s` limits one request up to the last byte of its answer, so that a server that sends a byte each second
    cannot prolong it. A time-out, a broken connection, a status in PASSING or 5xx is retried up to `max_retries` times,
    after the seconds in Retry-After, or 0.5 s doubling to 8 s. All tries and waits together take at most `patience_s`:
    if Retry-After is longer, the last try is made when that time ends.
    """

    def __init__(
        self, base_url: str, headers: dict[str, str], timeout_s: float, max_retries: int = 0, patience_s: float = 0
    ):
        self.base_url, self.timeout_s, self.max_retries, self.patience_s = base_url, timeout_s, max_retries, patience_s
        headers = {"User-Agent": f"cyclepref/{__version__}", "Accept-Encoding": "identity", **headers}
        # httpx2 limits each read but not their sum, so the limit on the whole request is our own.
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.AsyncClient(headers=headers, timeout=None, limits=limits, follow_redirects=False)

    async def __aenter__(self) -> "Http":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Send a request, with retries, and return the last answer, whatever its status.

        Raises:
            TimeoutError: if the last try took too long.
            httpx2.TransportError: if the last try's connection failed or broke.
            BadAnswer: without a retry, if an answer is too large, cannot be read, or redirects to another server.
        """
        last_start = time.monotonic() + self.patience_s - self.timeout_s
        for tried in range(self.max_retries + 1):
            last = tried == self.max_retries or time.monotonic() >= last_start
            wait = min(FIRST_WAIT_S * 2.0 ** min(tried, 10), MAX_BACKOFF_S) * (1 - random.random() / 4)
            try:
                answer = await self._once(method, path, body)
                if last or not _may_pass(answer):
                    return answer
                wait = _retry_after(answer.headers) or wait
            except (TimeoutError, httpx2.TransportError):
                if last:
                    raise
            await asyncio.sleep(min(wait, max(0.0, last_start - time.monotonic())))
        raise AssertionError("the last try returns or raises")

    async def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Answer:
        async with asyncio.timeout(self.timeout_s):
            request = self._client.build_request(method, f"{self.base_url}{path}", json=body)
            for _ in range(MAX_REDIRECTS + 1):
                response = await self._client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        content = await _body(response)
                        return Answer(response.status_code, response.reason_phrase, response.headers, content)
                finally:
                    await response.aclose()
                request = _redirected(request, response.next_request)
        raise BadAnswer(f"redirects more than {MAX_REDIRECTS} times")


async def _body(response: httpx2.Response) -> bytes:
    """The decompressed body; no more than MAX_BODY of it is ever held."""
    parts, size = [], 0
    try:
        async for part in response.aiter_bytes():
            parts.append(part)
            if (size := size + len(part)) > MAX_BODY:
                raise BadAnswer(f"answered with more than {MAX_BODY:,} bytes")
    except httpx2.DecodingError as error:
        raise BadAnswer(f"answered with data that cannot be decompressed ({error})") from error
    return b"".join(parts)


def _redirected(asked: httpx2.Request, following: httpx2.Request) -> httpx2.Request:
    """The request that a redirect leads to. Other servers are refused, so that neither image nor key is sent to
    them."""
    origins = [(url.scheme, url.host, url.port) for url in (asked.url, following.url)]
    if origins[0] != origins[1] or asked.method != following.method:
        raise BadAnswer(
            f"redirects to {following.url}, where nothing is sent: if that is your server, name it in base_url"
        )
    return following


def _may_pass(answer: Answer) -> bool:
    """Whether the same request may have another answer later."""
    told = answer.headers.get("x-should-retry")
    return told == "true" if told in ("true", "false") else answer.status in PASSING or answer.status >= 500


def _retry_after(headers: httpx2.Headers) -> float | None:
    """The seconds that a server asks us to wait; it gives them as milliseconds, seconds or a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if seconds > 0:
            return seconds
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        seconds = date.timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds if 0 < seconds < math.inf else None
