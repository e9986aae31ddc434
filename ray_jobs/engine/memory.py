"""Memory of the process tree: PSS (shared pages counted once) sampled once a second."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from types import TracebackType

MIB = 1 << 20
MMAP_THRESHOLD = -3  # of malloc.h


def give_back_free() -> None:
    """Gives free pages inside the heap back to the system, where the C library is glibc.

    Batches of ever other shapes leave holes that nothing fits: the heap of a long training would
    grow by megabytes a step.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def map_large_arrays() -> None:
    """Keeps large arrays out of the heap from here on, where the C library is glibc.

    It learns to put ever larger ones there, up to 32 MiB, which saves a training the time of new
    pages. What holds many for long, and each of its own size, is left with as much again in holes:
    an evaluation after a training took 4.9 GiB instead of 1.3.
    """
    give_back_free()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, MIB)


def tree_pss() -> int:
    """Bytes of this process and all below it; shared memory is split among its users."""
    process = psutil.Process()
    return sum(_pss(p) for p in [process, *process.children(recursive=True)])


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0


class PeakMemory:
    """Context manager that keeps the highest `tree_pss` seen while it is open."""

    def __init__(self, interval_s: float = 1.0) -> None:
        """Samples every `interval_s` seconds."""
        self.peak_mib = 0.0
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while True:
            self.peak_mib = max(self.peak_mib, tree_pss() / MIB)
            if self._done.wait(self._interval_s):
                return

    def __enter__(self) -> PeakMemory:
        """Starts sampling."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes a last sample and stops."""
        self._done.set()
        self._thread.join()
