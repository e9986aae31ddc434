"""The README's cluster command: a head with token authentication, and a job submitted to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.e2e.processes import REPOSITORY, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LOOPBACK = "127.0.0.2"
BIN = Path(sys.executable).parent
START_SECONDS = 90


class Head:
    """A Ray head on loopback whose dashboard takes jobs from those who have the token."""

    def __init__(self, folder: Path) -> None:
        self.token = folder / "token"
        self.token.write_text("a1" * 32)
        self.url = f"http://{LOOPBACK}:{free_port()}"
        self.folder = folder
        command = f"start --head --block --node-ip-address={LOOPBACK} --port={free_port()}"
        port = self.url.rsplit(":", 1)[1]
        more = f"--dashboard-host={LOOPBACK} --dashboard-port={port} --temp-dir={folder}/t"
        # Other Ray nodes of this machine may hold the ports that these have by default.
        agent = f"--dashboard-agent-listen-port={free_port()}"
        agent += f" --ray-client-server-port={free_port()}"
        sizes = "--num-cpus=4 --object-store-memory=268435456 --disable-usage-stats"
        with (folder / "head.log").open("w") as log:
            self.process = subprocess.Popen(
                [str(BIN / "ray"), *f"{command} {more} {agent} {sizes}".split()],
                cwd=folder,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def environment(self, token: bool = True) -> dict[str, str]:
        """Of a shell that has, or has not, the cluster's token."""
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        shell = environment() | {"PATH": path, "HOME": str(self.folder)}
        if token:
            return shell | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        return shell | {"RAY_AUTH_MODE": "disabled"}

    def wait(self) -> None:
        """Until the dashboard answers, if only that it does not know who asks."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, (self.folder / "head.log").read_text()
            try:
                if httpx.get(f"{self.url}/api/jobs/", timeout=2).status_code == 401:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise AssertionError((self.folder / "head.log").read_text())

    def submit(self, *entrypoint: str, token: bool = True) -> subprocess.CompletedProcess[str]:
        """`ray job submit` of the repository, as the README has it."""
        command = ["job", "submit", "--address", self.url, "--working-dir", ".", "--", *entrypoint]
        end = time.monotonic() + START_SECONDS
        while True:
            done = subprocess.run(
                [str(BIN / "ray"), *command],
                cwd=REPOSITORY,
                env=self.environment(token),
                capture_output=True,
                text=True,
                check=False,
            )
            # A young head has no agent yet that could start the job.
            if "No available agent" not in done.stderr or time.monotonic() > end:
                return done

    def end(self) -> None:
        """Ends the processes of this head, and of no other."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for process in [self.process, *started]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(20)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Not below pytest's folder: the paths of Ray's sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))
    head = Head(folder)
    try:
        head.wait()
        yield head
    finally:
        head.end()
        shutil.rmtree(folder, ignore_errors=True)


def test_without_the_token_nothing_is_submitted(head: Head) -> None:
    refused = head.submit("python", "-c", "print('ran')", token=False)
    assert refused.returncode != 0
    assert "Unauthorized" in refused.stderr
    assert "ran" not in refused.stdout.splitlines()


def test_a_submitted_pipeline_trains_publishes_and_serves_on_the_cluster(
    head: Head, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    words = [f"root={root}", "world.preset=tiny", "train.max_steps=20", "train.validate_every=10"]
    done = head.submit("python", "-m", "ray_jobs.pipeline", *words)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "succeeded" in done.stdout
    assert (root / "bundles" / "CURRENT").is_file()
    summary = json.loads((root / "summary.json").read_text())
    assert summary["served"]["status"] == 200
    assert summary["served"]["fallback"] is False
