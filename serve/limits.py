"""ASGI middleware: bounds on requests in work and on the size of a body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 << 20
ALWAYS = frozenset({"/healthz", "/readyz", "/metrics"})


class BodyTooLargeError(Exception):
    """Raised inside a request whose body goes beyond the bound."""


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
            await _refuse(503, "too many requests in work", scope, receive, send)
        elif _declared_bytes(scope) > MAX_BODY_BYTES:
            await _refuse(413, f"a body may have {MAX_BODY_BYTES} bytes", scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._in_work += 1
        try:
            await self._app(scope, _bounded(receive), send)
        except BodyTooLargeError:
            await _refuse(413, f"a body may have {MAX_BODY_BYTES} bytes", scope, receive, send)
        finally:
            self._in_work -= 1


def _bounded(receive: Receive) -> Receive:
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise BodyTooLargeError
        return message

    return bounded


def _declared_bytes(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def _refuse(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": "1"} if status == 503 else {}
    response = JSONResponse({"detail": [{"msg": text}]}, status, headers)
    await response(scope, receive, send)
