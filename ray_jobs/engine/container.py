"""What a container leaves of its machine (cgroups); outside of one nothing is limited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """Where a version of cgroups tells what a container may use of memory, and what it does.

    Attributes:
        limit: file of the bytes that it may use.
        used: file of the bytes that it uses, with the pages of files that the kernel keeps.
        stat: file of what those are.
        cache: lines in it of pages of files, which the kernel gives up when memory is asked for.
            What lies in shared memory counts elsewhere.
    """

    limit: str
    used: str
    stat: str
    cache: tuple[str, ...]

    def left(self) -> int | None:
        """Bytes that may still be used; None without a limit."""
        try:
            limit, used = (int((GROUP / name).read_text()) for name in (self.limit, self.used))
        except (OSError, ValueError):
            return None
        return max(0, limit - max(0, used - self._reclaimable()))

    def _reclaimable(self) -> int:
        try:
            lines = [line.split() for line in (GROUP / self.stat).read_text().splitlines()]
        except OSError:
            return 0
        return sum(int(count) for name, count in lines if name in self.cache)


VERSIONS = (
    MemoryGroup("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    MemoryGroup(
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)


def cores() -> int | None:
    """Whole cores that its share of time comes to, at least one; None without a limit."""
    try:
        quota, period = map(int, (GROUP / "cpu.max").read_text().split())
    except (OSError, ValueError):
        return None
    return max(1, quota // period)


def free_memory() -> int:
    """Bytes that may still be used: of the machine, or of the container if less."""
    free = int(psutil.virtual_memory().available)
    return min([free, *(left for version in VERSIONS if (left := version.left()) is not None)])
