"""What is checked, bounded and counted before a request reaches the application."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import time
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crnn_search.models.server.limits import Limits
from crnn_search.models.server.metrics import Metrics
from crnn_search.models.server.problems import problem
from crnn_search.text import cut, shown

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""How this machine calls itself."""

OPEN = frozenset({
    "/", "/docs", "/openapi.json", "/healthz", "/page.css", "/page.js", "/docs.js",
})  # fmt: skip
"""Paths that need no token: they say nothing of the model. The page asks for the token."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer: pages load nothing from elsewhere, and are shown in no frame."""


class Guard:
    """An ASGI middleware.

    token: what requests have to bring, or None. hosts: names by which the server may be called, or
    None for any: without a token a page of another site could reach it by a name of its own that
    it points to this machine (DNS rebinding). paths: those of the application, for the metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        hosts: Collection[str] | None,
        limits: Limits,
        metrics: Metrics,
        paths: Collection[str],
    ) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts
        self.limits = limits
        self._metrics = metrics
        self._paths = paths
        self._bytes_at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        status, start = int(HTTPStatus.INTERNAL_SERVER_ERROR), time.perf_counter()
        body = _Body(receive, self)

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        with self._metrics.in_progress.track_inprogress():
            try:
                app = self._refusal(scope) or self._app
                await app(scope, body.receive, send_marked)
            finally:
                self._bytes_at_once -= body.size
                self._metrics.requests.labels(path, status).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that is refused, whatever its body."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and not (_name(host) in self._hosts or _is_loopback(host)):
            valid = ", ".join(sorted(self._hosts))
            return problem(
                421, f"Host must be one of {valid}, since there is no token; got {shown(host)}"
            )
        site = headers.get("sec-fetch-site", "none")
        if scope["method"] not in {"GET", "HEAD"} and site not in {"none", "same-origin"}:
            return problem(
                403, f"a page of another site may not ask (Sec-Fetch-Site: {shown(site)})"
            )
        if scope["path"] not in OPEN and not self._has_token(headers):
            return problem(
                401,
                "the header Authorization must be 'Bearer TOKEN' with the server's token",
                {"www-authenticate": "Bearer"},
            )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limits.body_bytes:
            return problem(413, f"{_too_large(self.limits)}, got {cut(length)}")
        return None

    def _has_token(self, headers: Headers) -> bool:
        """Whether a request brings the token, or needs none."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), self._token.encode())
        return is_right and scheme.lower() == "bearer"

    def arrived(self, size: int) -> None:
        """Count bytes of a body that have arrived.

        Raises:
            HTTPException: all bodies together are too large.
        """
        self._bytes_at_once += size
        if self._bytes_at_once > self.limits.bytes_at_once:
            raise HTTPException(
                503, "the server has too many requests at once; try again", {"retry-after": "1"}
            )


class _Body:
    """The body of a request as it arrives."""

    def __init__(self, receive: Receive, guard: Guard) -> None:
        self._receive = receive
        self._guard = guard
        self._end = time.monotonic() + guard.limits.body_s
        self._complete = False
        self.size = 0

    async def receive(self) -> Message:
        """The next message.

        Raises:
            HTTPException: it did not arrive in time, or is too large, or all bodies together are.
        """
        if self._complete:
            return await self._receive()  # a disconnection, which may take its time
        limits = self._guard.limits
        try:
            message = await asyncio.wait_for(self._receive(), self._end - time.monotonic())
        except TimeoutError:
            raise HTTPException(408, f"the body must arrive within {limits.body_s:g} s") from None
        self._complete = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self.size += size
        self._guard.arrived(size)
        if self.size > limits.body_bytes:
            raise HTTPException(413, _too_large(limits))
        return message


def _too_large(limits: Limits) -> str:
    return f"the body must have at most {limits.body_bytes:,} bytes"


def _is_loopback(host: str) -> bool:
    """Whether a Host header has a loopback address: no name can be made to mean another machine."""
    try:
        return ipaddress.ip_address((_name(host) or "").strip("[]")).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str | None:
    """The name in a Host header, without its port."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]+)?", host)
    return found[1].lower() if found else None
