"""An S3-compatible server of one's own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.e2e.processes import free_port, wait_until_it_answers

BUCKET = "company"


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
