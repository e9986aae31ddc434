"""ASGI middleware: bounds on requests in work and on the size of a body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from serve.refusals import AGAIN, refuse_saying

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 << 20
TOO_LARGE = f"a body may have {MAX_BODY_BYTES} bytes"
ALWAYS = frozenset({"/healthz", "/readyz", "/metrics"})
POSTING = frozenset({"/v1/events", "/v1/items"})


class Limits:
    """Answers 503 when too much is in work and 413 when a body is too large.

    What watches the server is always let in: one that is busy is not dead. What waits for a store
    has at most half of the places: one that hangs leaves the other half to feeds.

    Args:
        app: what is protected.
        max_concurrent: requests in work or waiting for a thread.
    """

    def __init__(self, app: ASGIApp, max_concurrent: int) -> None:
        self._app = app
        self._max_concurrent, self._most_posted = max_concurrent, max(max_concurrent // 2, 1)
        self._in_work = self._posted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self._app(scope, receive, send)
        elif self._is_full(scope["path"]):
            refused = refuse_saying(503, "too many requests in work", AGAIN)
            await refused(scope, receive, send)
        elif _declared_bytes(scope) > MAX_BODY_BYTES:
            await refuse_saying(413, TOO_LARGE)(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    def _is_full(self, path: str) -> bool:
        posted = path in POSTING and self._posted >= self._most_posted
        return posted or self._in_work >= self._max_concurrent

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        posts = scope["path"] in POSTING
        self._in_work += 1
        self._posted += posts
        try:
            await self._app(scope, _bounded(receive), send)
        finally:
            self._in_work -= 1
            self._posted -= posts


def _bounded(receive: Receive) -> Receive:
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, TOO_LARGE)  # the application answers it
        return message

    return bounded


def _declared_bytes(scope: Scope) -> float:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return float(value) if value.isdigit() else 0.0
