"""What listens for Ray Serve: its own proxy in Python, or HAProxy before the replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from data.contract.settings import UserError
from serve.access import TOKEN, refuse_open_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve.settings import ServeSettings

Proxy = Literal["python", "haproxy"]
# Read when Ray Serve is imported, by its controller and proxies too.
ENVIRONMENT: dict[Proxy, dict[str, str]] = {
    "python": {},
    "haproxy": {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "hdr(x-session-id)",
        # What a replica that is killed had in work too, and not only what it could not be sent.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    },
}


def refuse_open(settings: ServeSettings, token: str) -> None:
    """Raises UserError where others could ask without a token."""
    refuse_open_host(settings.host, token)
    if settings.proxy == "haproxy" and not token:
        raise UserError(
            "serve.proxy=haproxy listens on all interfaces: give the server a token, "
            f"{TOKEN}=..., or keep to serve.proxy=python"
        )


def refuse_other_proxy(settings: ServeSettings, environment: Mapping[str, str]) -> None:
    """Raises UserError where Ray Serve has not been told to start the proxy that is set."""
    missing = {k: v for k, v in ENVIRONMENT[settings.proxy].items() if k not in environment}
    if missing:
        wanted = " ".join(f"{name}='{value}'" for name, value in missing.items())
        raise UserError(
            f"serve.proxy={settings.proxy} is what Ray Serve starts where the environment of Ray "
            f"says so: set {wanted} on each machine before ray start, or serve.proxy=python"
        )
