"""Ray nodes on loopback, each with an address of its own, and jobs submitted to their head."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from tests.e2e.processes import REPOSITORY, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOOPBACK = "127.0.0.2"
BIN = Path(sys.executable).parent
START_SECONDS = 90


class Head:
    """A Ray head whose dashboard takes jobs from those who have the token; on loopback."""

    def __init__(
        self,
        folder: Path,
        variables: dict[str, str] | None = None,
        ip: str = LOOPBACK,
        cpus: int = 4,
    ) -> None:
        self.token = folder / "token"
        self.token.write_text("a1" * 32)
        self.variables = variables or {}
        self.url = f"http://{ip}:{free_port()}"
        self.folder = folder
        self.address = f"{ip}:{free_port()}"
        command = f"start --head --block --node-ip-address={ip}"
        command += f" --port={self.address.rsplit(':', 1)[1]}"
        port = self.url.rsplit(":", 1)[1]
        more = f"--dashboard-host={ip} --dashboard-port={port} --temp-dir={folder}/t"
        # Other Ray nodes of this machine may hold the ports that these have by default.
        agent = f"--dashboard-agent-listen-port={free_port()}"
        agent += f" --ray-client-server-port={free_port()}"
        sizes = f"--num-cpus={cpus} --object-store-memory=268435456 --disable-usage-stats"
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
        own = {"HOME": str(self.folder), "NUMBA_CACHE_DIR": str(self.folder / "kernels")}
        shell = environment() | {"PATH": path} | own | self.variables
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
        return self._submitted((), entrypoint, token)

    def begin(self, *entrypoint: str) -> str:
        """The same without waiting for its end; the name of the job."""
        name = f"job-{uuid.uuid4().hex[:8]}"
        done = self._submitted(("--no-wait", "--submission-id", name), entrypoint, token=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return name

    def stop(self, name: str) -> None:
        """Asks a job to end, and waits until it has."""
        self._job("stop", "--address", self.url, name)

    def _submitted(
        self, options: tuple[str, ...], entrypoint: tuple[str, ...], token: bool
    ) -> subprocess.CompletedProcess[str]:
        where = ("--address", self.url, "--working-dir", ".")
        end = time.monotonic() + START_SECONDS
        while True:
            done = self._job("submit", *options, *where, "--", *entrypoint, token=token)
            # A young head has no agent yet that could start the job.
            if "No available agent" not in done.stderr or time.monotonic() > end:
                return done

    def _job(self, *words: str, token: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "ray"), "job", *words],
            cwd=REPOSITORY,
            env=self.environment(token),
            capture_output=True,
            text=True,
            check=False,
        )

    def join(
        self, ip: str, through: Sequence[str] = (), **variables: str
    ) -> subprocess.Popen[bytes]:
        """Starts a node of two CPUs at another address, by a command that leads there."""
        command = f"start --block --address={self.address} --node-ip-address={ip} --num-cpus=2"
        more = f"--dashboard-agent-listen-port={free_port()} --object-store-memory=268435456"
        # Not the head's: the agent of a node clears what lies there of others, a job's code say.
        more += f" --temp-dir={self.folder}/{ip.rsplit('.', 1)[1]}"
        with (self.folder / f"{ip}.log").open("a") as log:
            return subprocess.Popen(
                [*through, str(BIN / "ray"), *f"{command} {more} --disable-usage-stats".split()],
                cwd=self.folder,
                env=self.environment() | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def told(self, what: str) -> list[dict[str, Any]]:
        """Rows of `ray list`: actors, tasks, nodes."""
        words = ("list", what, "--address", self.url, "--limit", "10000", "--format", "json")
        done = subprocess.run(
            [str(BIN / "ray"), *words],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        rows: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[") :])
        return rows

    def end(self) -> None:
        """Ends the processes of this head, and of no other."""
        end(self.process)


def end(node: subprocess.Popen[bytes], gently: bool = True) -> None:
    """Ends a node with all its processes."""
    started = psutil.Process(node.pid).children(recursive=True)
    if gently:
        node.terminate()
        with suppress(subprocess.TimeoutExpired):
            node.wait(10)
    for process in [node, *started]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait(20)


@contextmanager
def running_head(ip: str = LOOPBACK, cpus: int = 4, **variables: str) -> Iterator[Head]:
    """A head that answers, with some variables; gone with the context."""
    # Not below pytest's folder: the paths of Ray's sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))
    head = Head(folder, variables, ip, cpus)
    try:
        head.wait()
        yield head
    finally:
        head.end()
        shutil.rmtree(folder, ignore_errors=True)
