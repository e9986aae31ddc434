"""Turns among processes that share a root."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def turn(root: Path, name: str) -> Iterator[None]:
    """Waits until no other process has the turn of this name in a root; the dead give it up.

    The lock is the file system's (flock): network file systems have to support it.
    """
    file = root / ".work" / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _locked(file: Path) -> IO[str]:
    """The file, open and locked. Whoever had it before has removed it: then it is made anew."""
    while True:
        stream = file.open("w")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if _is_there(file, stream):
            return stream
        stream.close()


def _is_there(file: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
