"""A head and a second node that is lost, each with a disk and an address of its own."""

from __future__ import annotations

import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from tests.e2e.ray_nodes import Head, end

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

OTHER = "127.0.0.3"
WAIT_S = 600


class Machines:
    """A head and, while it lives, a second node.

    Args:
        head: of the cluster.
        folder: for the second node's disk.
    """

    def __init__(self, head: Head, folder: Path) -> None:
        self.head, self._folder = head, folder
        self._disk = folder
        self._node: Any = None

    def join(self) -> None:
        """Starts a second node with an empty disk."""
        self._disk = Path(tempfile.mkdtemp(dir=self._folder))
        self._node = self.head.join(OTHER, HOMEFEED_MIRROR=str(self._disk))

    def lose(self) -> int:
        """Kills the second node; gives the number of files that its disk had of the root."""
        self.end()
        return sum(file.is_file() for file in self._disk.rglob("*"))

    def end(self) -> None:
        """Ends the second node if it runs."""
        if self._node is not None:
            end(self._node, gently=False)
            self._node = None

    def job(self, name: str, *words: str) -> str:
        """Submits a job that must succeed and waits for it; what it has printed."""
        done = self.head.submit("python", "-m", f"ray_jobs.{name}", *words)
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-6000:])
        return done.stdout


def disturbed(
    machines: Machines, words: tuple[str, ...], begun: Callable[[], bool], replaced: bool
) -> dict[str, Any]:
    """Runs a job on two nodes, of which one is lost once it has begun."""
    machines.join()
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(machines.job, *words)
        wait_for(begun, job)
        files = machines.lose()
        lost = time.monotonic()
        if replaced:
            machines.join()
        said = job.result()
    ended = time.monotonic()
    return {
        "succeeded": "succeeded" in said,
        "files_of_the_lost_node": files,
        "seconds": round(ended - started, 1),
        "seconds_after_the_loss": round(ended - lost, 1),
        "groups_started": re.findall(r"Started training worker group of size (\d+)", said),
        "log": [line for line in plain(said) if "RETRY" in line or "marked dead" in line],
    }


def plain(text: str) -> list[str]:
    """Lines without colours, cut."""
    return [line[:200] for line in re.sub(r"\x1b\[\d+m", "", text).splitlines()]


def wait_for(begun: Callable[[], bool], job: Future[Any]) -> None:
    """Until a job is in the middle of its work."""
    ends = time.monotonic() + WAIT_S
    while not begun():
        if job.done() or time.monotonic() > ends:
            raise RuntimeError(f"it never began: {job.result()[-6000:]}")
        time.sleep(0.2)


def there(root: str, pattern: str) -> set[str]:
    """Objects of a root's checkpoints that match."""
    system, place = fs.FileSystem.from_uri(root)
    selector = fs.FileSelector(f"{place}/checkpoints", recursive=True, allow_not_found=True)
    return {one.path for one in system.get_file_info(selector) if Path(one.path).match(pattern)}
