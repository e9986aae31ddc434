"""Locks of processes on files (flock), which end with their holders.

Those of NFS reach other machines, and ask that a file is open for writing where its lock excludes
others, and for reading where it is shared.
"""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def locked(file: Path, how: int = fcntl.LOCK_EX) -> IO[str]:
    """The file, open and locked until it is closed; made anew where a holder has removed it.

    Raises:
        BlockingIOError: another process has it, and `how` is not to wait (fcntl.LOCK_NB).
    """
    while True:
        stream = file.open("a+")
        try:
            fcntl.flock(stream, how)
        except BlockingIOError:
            stream.close()
            raise
        if _is_there(file, stream):
            return stream
        stream.close()


def _is_there(file: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
