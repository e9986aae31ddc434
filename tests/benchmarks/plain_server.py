"""A server process that is killed and started again on the same root and port."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.e2e.processes import REPOSITORY, environment, free_port, wait_until_ready

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

ENDS_S = 60


class PlainServer:
    """`serve_plain` of a root.

    Args:
        root: with a bundle.
        words: settings of serving.
    """

    def __init__(self, root: Path, *words: str) -> None:
        self._port = free_port()
        self._words = (str(root.resolve()), str(self._port), *words)
        self.url = f"http://127.0.0.1:{self._port}"
        self.kills = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(ENDS_S)

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "tests.benchmarks.serve_plain", *self._words]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, env=environment())
        wait_until_ready(self.url, self._process)

    def kill(self) -> None:
        """SIGKILL: nothing is written, closed or answered after it."""
        self._process.kill()
        self._process.wait(ENDS_S)
        self.kills += 1

    def stop(self) -> None:
        """Ctrl-C, which it must end cleanly on."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(ENDS_S) in (0, -signal.SIGINT)
