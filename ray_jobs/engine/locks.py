"""Turns among processes that share a root."""

from __future__ import annotations

import fcntl
import logging
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, TYPE_CHECKING

from data.contract import storage
from data.contract.file_lock import locked
from ray_jobs.engine.leases import lease, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def turn(root: Path, name: str) -> Iterator[Callable[[], None]]:
    """Waits until no other process has the turn of this name in a root; the dead give it up.

    The lock is the file system's (flock): network file systems have to support it. Of a root in
    object storage, which machines see through mirrors of their own, these take turns too, and may
    lose one: what is given confirms that it has not been, and is to be called before anything that
    others would take for the work of whoever has the turn.

    Raises:
        StorageError: the storage does not answer, or the turn was lost.
    """
    file = root / ".work" / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _waited_for(file):
        try:
            with _among_machines(root, name) as confirm:
                yield confirm
        finally:
            file.unlink(missing_ok=True)


def unless_held(root: Path, name: str, action: Callable[[], None]) -> None:
    """Does something in a turn if no process of this machine has it, else nothing; never waits."""
    file = root / ".work" / f"{name}.lock"
    try:
        stream = locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    with stream:
        try:
            action()
        finally:
            file.unlink(missing_ok=True)


def held(root: Path) -> list[str]:
    """Names of the turns that processes of this machine have in a root."""
    return sorted(file.stem for file in (root / ".work").glob("*.lock") if _is_held(file))


def _is_held(file: Path) -> bool:
    try:
        with file.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # given up meanwhile
        return False
    except BlockingIOError:
        return True
    return False


def _among_machines(root: Path, name: str) -> AbstractContextManager[Callable[[], None]]:
    if not storage.is_mirrored(root):
        return nullcontext(lambda: None)
    folder = storage.here(root) / ".work" / f"{name}.tickets"
    return lease(
        folder, machine(), lambda: log.warning("%s: another machine makes it; waiting", name)
    )


def _waited_for(file: Path) -> IO[str]:
    try:
        return locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("%s: another process makes it; waiting", file.stem)
        return locked(file)
