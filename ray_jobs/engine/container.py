"""What a container leaves of its machine (cgroup 2); outside of one nothing is limited."""

from __future__ import annotations

from pathlib import Path

import psutil

GROUP = Path("/sys/fs/cgroup")


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
    try:
        limit = int((GROUP / "memory.max").read_text())
        return min(free, limit - int((GROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        return free
