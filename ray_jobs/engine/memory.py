"""Memory of the process tree: PSS (shared pages counted once) sampled once a second."""

from __future__ import annotations

import ctypes
import threading
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

MIB = 1 << 20
GROWTH = 256 * MIB
REST = ""


def give_back_free() -> None:
    """Gives free pages inside the heap back to the system, where the C library is glibc.

    Batches of ever other shapes leave holes that nothing fits: the heap of a long training would
    grow by megabytes a step.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Holes:
    """Gives back the free pages of this process each time that it has grown by `GROWTH`.

    The heap of a training is mostly holes once it is over, and what comes next fills ever other
    ones: an evaluation that never held more than 1.4 GiB took 4.9.
    """

    def __init__(self) -> None:
        """Starts from the size of now."""
        self._process = psutil.Process()
        self._size = self._resident()

    def watch(self) -> None:
        """Looks at the size."""
        size = self._resident()
        if size > self._size + GROWTH:
            give_back_free()
            self._size = self._resident()
        else:
            self._size = min(self._size, size)

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)


def tree_pss() -> int:
    """Bytes of this process and all below it; shared memory is split among its users."""
    process = psutil.Process()
    return sum(_pss(p) for p in [process, *process.children(recursive=True)])


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0


@dataclass(slots=True)
class Part:
    """Part of what `PeakMemory` watches; its peaks and time are without those of parts inside it.

    Attributes:
        phase: that goes on; REST outside all.
        phases_mib: phase -> highest memory meanwhile.
        seconds: that it took.
    """

    phase: str = REST
    phases_mib: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def peak_mib(self) -> float:
        """Highest memory of all phases."""
        return max(self.phases_mib.values(), default=0.0)

    def saw(self, size_mib: float) -> None:
        """Takes a look at the memory."""
        self.phases_mib[self.phase] = max(self.phases_mib.get(self.phase, 0.0), size_mib)


class PeakMemory:
    """Context manager that keeps the highest `tree_pss` seen while it is open; tends `Holes`."""

    def __init__(self, interval_s: float = 1.0) -> None:
        """Samples every `interval_s` seconds."""
        self.peak_mib = 0.0
        self._part = Part()
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @contextmanager
    def part(self) -> Iterator[Part]:
        """What is seen until the end counts for the part too; the last look is at its end."""
        around, own = self._part, Part()
        self._part, started = own, time.perf_counter()
        try:
            yield own
            self._look()
        finally:
            taken = time.perf_counter() - started
            own.seconds += taken
            around.seconds -= taken
            self._part = around

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is seen until the end counts for this phase of the part; looks once at least."""
        part, before = self._part, self._part.phase
        part.phase = name
        try:
            yield
            self._look()
        finally:
            part.phase = before

    def _look(self) -> None:
        part, size = self._part, tree_pss() / MIB
        with self._lock:
            self.peak_mib = max(self.peak_mib, size)
            part.saw(size)

    def _sample(self) -> None:
        holes = Holes()
        while True:
            self._look()
            holes.watch()
            if self._done.wait(self._interval_s):
                return

    def __enter__(self) -> PeakMemory:
        """Starts sampling."""
        _WATCHING.append(self)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes a last sample and stops."""
        _WATCHING.remove(self)
        self._done.set()
        self._thread.join()
        self._look()


_WATCHING: list[PeakMemory] = []


def phase(name: str) -> AbstractContextManager[None]:
    """Names what this process does, to what watches its memory; nothing where nothing does.

    The highest memory of a whole hides how its phases grow: what is large on a large log is
    below something else on a small one.
    """
    return _WATCHING[-1].phase(name) if _WATCHING else nullcontext()
