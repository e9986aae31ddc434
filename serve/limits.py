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


class Limits:
    """Answers 503 when too much is in work and 413 when a body is too large.

    What watches the server is always let in: one that is busy is not dead.

    Args:
        app: what is protected.
        max_concurrent: requests in work or waiting for a thread.
    """

    def __init__(self, app: ASGIApp, max_concurrent: int) -> None:
        self._app = app
        self._max_concurrent = max_concurrent
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self._app(scope, receive, send)
        elif self._in_work >= self._max_concurrent:
            refused = refuse_saying(503, "too many requests in work", AGAIN)
            await refused(scope, receive, send)
        elif _declared_bytes(scope) > MAX_BODY_BYTES:
            await refuse_saying(413, TOO_LARGE)(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._in_work += 1
        try:
            await self._app(scope, _bounded(receive), send)
        finally:
            self._in_work -= 1


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
