"""Turns among processes that share a root."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def turn(root: Path, name: str) -> Iterator[None]:
    """Waits until no other process has the turn of this name in a root; the dead give it up.

    The lock is the file system's (flock): network file systems have to support it.
    """
    file = root / ".work" / "locks" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
