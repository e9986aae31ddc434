"""An S3-compatible server of one's own."""

import math
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from tests.e2e.processes import free_port, wait_until_it_answers

BUCKET = "company"
METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")


@contextmanager
def running_s3() -> Iterator[dict[str, str]]:
    """Variables under which `s3://company` is a bucket of a server that ends with the context."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            make_bucket(url)
            yield {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "a-key",
                "AWS_SECRET_ACCESS_KEY": "a-secret",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        finally:
            server.terminate()


def make_bucket(url: str) -> None:
    """Makes the bucket once the server answers."""

    def make() -> None:
        httpx.put(f"{url}/{BUCKET}").raise_for_status()

    wait_until_it_answers(make, httpx.HTTPError)


class Slowed(socketserver.ThreadingTCPServer):
    """A way to a server on which every answer takes longer.

    Attributes:
        seconds: that it takes; with infinity none comes.
        asked: methods of the requests.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Detour)
        self.port, self.seconds, self.asked = port, 0.0, list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Detour(socketserver.BaseRequestHandler):
    """One connection: what is asked goes on at once."""

    server: Slowed

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as there:
            back = threading.Thread(target=self._answer, args=(there,), daemon=True)
            back.start()
            with suppress(OSError):
                while data := self.request.recv(1 << 16):
                    self._note(data)
                    there.sendall(data)

    def _note(self, data: bytes) -> None:
        method = data.partition(b" ")[0].decode(errors="replace")
        if method in METHODS:
            self.server.asked.append(method)

    def _answer(self, there: socket.socket) -> None:
        with suppress(OSError):
            while data := there.recv(1 << 16):
                if math.isinf(self.server.seconds):
                    return
                time.sleep(self.server.seconds)
                self.request.sendall(data)


@contextmanager
def slowed(url: str) -> Iterator[Slowed]:
    """A server by a way that is as slow as one likes."""
    with Slowed(int(url.rpartition(":")[2])) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
