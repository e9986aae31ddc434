"""Speaks HTTP to an application in this process."""

from typing import Any

import anyio
import httpx


class Client:
    """A client of one application."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://feed") as client:
                return await client.request(method, path, **request)

        return anyio.run(send)
