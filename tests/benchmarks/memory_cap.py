"""A limit on the memory of processes and of all that they start, held to by the kernel.

Heaps, shared memory and cached files count; cached files make room, heaps are killed. It takes a
control group, which root may make, of version 1 or 2.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryCap:
    """A control group with a limit.

    Attributes:
        folder: of the group.
        gib: that all its processes may take together.
    """

    folder: Path
    gib: float

    def enter(self) -> None:
        """Puts this process in; what it starts is in too. For `preexec_fn`."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))


def parent() -> tuple[Path, str]:
    """Where a group may be made, and the name of its limit."""
    if (GROUPS / "memory").is_dir():
        return GROUPS / "memory", "memory.limit_in_bytes"
    return GROUPS, "memory.max"


@contextmanager
def memory_cap(gib: float) -> Iterator[MemoryCap | None]:
    """A group of so many GiB, gone at the end; none where this machine lets none be made."""
    above, limit = parent()
    folder = above / f"homefeed-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(int(gib * 2**30)))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        print(f"memory is watched, not limited: {error}", file=sys.stderr)
        yield None
        return
    try:
        yield MemoryCap(folder, gib)
    finally:
        with suppress(OSError):  # of a process that has not ended yet
            folder.rmdir()
