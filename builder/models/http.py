"""HTTP with a server that may be slow, endless or hostile: every request has a deadline and a largest answer, and goes
to the address that was named or nowhere."""

import asyncio
import email.utils
import math
import random
import time
from typing import Any, NamedTuple

import httpx2

from cyclepref.builder import __version__

# Many times a chat completion with all that models think before it; decompressed, and parsed in memory.
MAX_BODY = 8 * 2**20
# A server may send a request from one of its own paths to another, as for a slash at the end.
MAX_REDIRECTS = 3
# Besides 5xx, the statuses that may pass: a time-out, a lock, a rate limit.
PASSING = {408, 409, 429}
FIRST_WAIT_S, MAX_BACKOFF_S = 0.5, 8.0


class BadAnswer(Exception):
    """What a server answered with is not worth another try."""


class Answer(NamedTuple):
    """A response as far as it is of use: `body` is decompressed."""

    status: int
    phrase: str
    headers: httpx2.Headers
    body: bytes

    @property
    def text(self) -> str:
        """The body to be shown."""
        return self.body.decode("utf-8", "replace")


class Http:
    """Requests to one server. An async context manager; use it within one event loop.

    `timeout_s` is for one request until its answer is there to the last byte, so that a byte a second does not prolong
    it. What may pass (a time-out, a broken connection, a status of PASSING or 5xx) is asked for again up to
    `max_retries` times, after what Retry-After says or 0.5 s doubling to 8 s. All tries with the waits between them
    take `patience_s` at most: whoever says to wait longer is asked once more when that ends.
    """

    def __init__(
        self, base_url: str, headers: dict[str, str], timeout_s: float, max_retries: int = 0, patience_s: float = 0
    ):
        self.base_url, self.timeout_s, self.max_retries, self.patience_s = base_url, timeout_s, max_retries, patience_s
        headers = {"User-Agent": f"cyclepref/{__version__}", "Accept-Encoding": "identity", **headers}
        # httpx2 has a limit on each read and none on their sum; ours is on the whole.
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.AsyncClient(headers=headers, timeout=None, limits=limits, follow_redirects=False)

    async def __aenter__(self) -> "Http":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """The last answer, whatever its status.

        Raises:
            TimeoutError: if the last try took too long.
            httpx2.TransportError: if its connection could not be made, or broke.
            BadAnswer: at once, for one that is too large, that cannot be read, or that leads elsewhere.
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
        raise BadAnswer(f"answered with what cannot be decompressed ({error})") from error
    return b"".join(parts)


def _redirected(asked: httpx2.Request, following: httpx2.Request) -> httpx2.Request:
    """The request that a redirect leads to, within the same server: neither image nor key is carried elsewhere."""
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
    """The seconds that a server wants us to wait: in milliseconds, seconds or as a date."""
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
