"""Turns among machines whose root lies in object storage.

Lamport's bakery (1974): whoever wants a turn puts a ticket there with a number above all that it
finds, and the lowest number goes first. That asks of a storage that it lists what has been put, and
nothing of conditional writes. A ticket is put again every `BEAT_S`; one that has grown old by the
storage's own clock is a dead machine's, and counts no more. Who could not put its own in time looks
whether it has been taken for dead: then its turn is lost, and what it has made is not published.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data.contract import mirrors, storage
from data.contract.artifact import write_atomically
from data.contract.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEAT_S, LOST_S, POLL_S = 10.0, 60.0, 1.0
CHOOSING = "choosing"


@contextmanager
def lease(folder: Path, machine: str, waiting: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Waits until no other machine has the turn that a folder of a mirror stands for.

    Gives what confirms that the turn has not been lost meanwhile, which is asked at the end too.

    Args:
        folder: of the tickets. Processes of one machine take turns before they come here.
        machine: this one's name, without a dot.
        waiting: called once where another machine has it.

    Raises:
        StorageError: the storage does not answer, or has not for so long that the turn is lost.
    """
    ticket = Ticket(folder, machine)
    with ticket.renewed():
        ticket.draw()
        if not ticket.is_first():
            waiting()
        while not ticket.is_first():
            time.sleep(POLL_S)
        ticket.confirm()
        ticket.sweep()
        yield ticket.confirm
        ticket.confirm()


@dataclass
class Ticket:
    """One machine's wish for a turn.

    Attributes:
        folder: where all tickets lie.
        machine: whose it is.
        name: of its file.
        number: that it has drawn, 0 before.
        put_at: when it was put last, s of a clock that only goes on; None before.
        is_lost: whether that was too late once, and others came.
    """

    folder: Path
    machine: str
    name: str = ""
    number: int = 0
    put_at: float | None = None
    is_lost: bool = False
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Names it."""
        self.name = f"{self.machine}.{uuid.uuid4().hex[:8]}"

    def draw(self) -> None:
        """Takes a number above all others; until it is there, nobody may go first."""
        self.put()
        numbers = [int(text) for text in self._others(alive=True).values() if text.isdigit()]
        self.number = 1 + max(numbers, default=0)
        self.put()

    def is_first(self) -> bool:
        """Whether nobody with a lower number is waiting or at work."""
        mine = self.number, self.name
        others = self._others(alive=True).items()
        return all(text.isdigit() and mine < (int(text), name) for name, text in others)

    def sweep(self) -> None:
        """Takes away what the dead have left."""
        for name in self._others(alive=False):
            storage.remove(self.folder / name)

    def put(self) -> None:
        """Puts it there, once more if it is. Late, it looks whether others took it for dead."""
        with self._writing:
            started, late = time.monotonic(), self._is_late()
            swept = late and not storage.exists(self.folder / self.name)
            write_atomically(self.folder / self.name, str(self.number or CHOOSING))
            self.is_lost |= swept or (late and bool(self._others(alive=True)))
            self.put_at = started

    def confirm(self) -> None:
        """Raises StorageError where another machine has taken it for a dead one's."""
        if self._is_late():
            self.put()
        if self.is_lost:
            uri = storage.uri_of(self.folder)
            raise StorageError(
                f"{uri} could not be written for more than {LOST_S:.0f} s, and another machine has "
                "taken this one's turn; nothing was published: run the same command again to go on"
            )

    def _is_late(self) -> bool:
        return self.put_at is not None and time.monotonic() - self.put_at > LOST_S

    def _others(self, alive: bool) -> dict[str, str]:
        """Tickets of the living or of the dead: name -> text. Of this machine only one lives."""
        found = storage.texts(self.folder)
        now_ns, _ = found.pop(self.name, (0, ""))
        return {
            name: text
            for name, (put_ns, text) in found.items()
            if alive is (name.partition(".")[0] != self.machine and now_ns - put_ns < LOST_S * 1e9)
        }

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Puts it again and again, and takes it away at the end."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(StorageError, OSError):
                storage.remove(self.folder / self.name)

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with suppress(StorageError, OSError):  # a full disk, say, which may have room soon
                self.put()


def machine() -> str:
    """A name for all processes that share this machine's mirrors."""
    file = mirrors.base() / "machine"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_name(f".machine.{uuid.uuid4().hex[:8]}")
        own.write_text(uuid.uuid4().hex[:12])
        with suppress(FileExistsError):
            os.link(own, file)
        own.unlink()
    return file.read_text()
