"""ASGI middleware: who may ask, and how often.

With a token (`HOMEFEED_TOKEN` in the server's environment) every route but the page and /healthz
needs it as `Authorization: Bearer <token>`. A client, by its address, may ask `rate` times a second
in the mean, and twice as often in a burst of a second. The address is that of the connection:
clients behind a load balancer are one.
"""

from __future__ import annotations

import hmac
import math
import threading
import time
from collections import OrderedDict
from ipaddress import ip_address
from typing import TYPE_CHECKING

from data.contract.settings import UserError
from serve.refusals import refuse_saying

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN = "HOMEFEED_TOKEN"
OPEN = frozenset({"/", "/healthz"})
MAX_CLIENTS = 100_000


class Access:
    """Answers 401 without the token and 429 when a client asks too often.

    Args:
        app: what is protected.
        token: that clients show; none is asked for without.
        rate: requests a second of a client; 0 is no bound.
    """

    def __init__(self, app: ASGIApp, token: str = "", rate: float = 0.0) -> None:
        self._app = app
        self._token = token.encode()
        self._buckets = Buckets(rate) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection event."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self._token and not hmac.compare_digest(given, b"Bearer " + self._token):
            text = f"this server needs Authorization: Bearer <its {TOKEN}>"
            refused = refuse_saying(401, text, {"WWW-Authenticate": "Bearer"})
            await refused(scope, receive, send)
            return
        wait_s = self._buckets.wait_s(_client(scope)) if self._buckets else 0.0
        if wait_s:
            headers = {"Retry-After": str(math.ceil(wait_s))}
            await refuse_saying(429, "too many requests", headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _client(scope: Scope) -> str:
    address = scope.get("client")
    return str(address[0]) if address else ""


class Buckets:
    """A token bucket for each client; of many clients the one seen longest ago is forgotten.

    Args:
        rate: tokens a second; a bucket holds those of two.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = rate, max(2 * rate, 1.0), clock
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, client: str) -> float:
        """Takes a token; 0, or how long until there is one."""
        with self._lock:
            now = self._clock()
            left, at = self._known.pop(client, (self._most, now))
            left = min(left + (now - at) * self._rate, self._most)
            allowed = left >= 1
            self._known[client] = (left - allowed, now)
            if len(self._known) > MAX_CLIENTS:
                self._known.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self._rate


def refuse_open_host(host: str, token: str) -> None:
    """Raises UserError where others could ask without a token."""
    try:
        inside = ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside and not token:
        raise UserError(
            f"serve.host={host}, or http_options.host of a configuration file, lets other machines "
            f"in: give the server a token, {TOKEN}=..., or keep to 127.0.0.1"
        )
