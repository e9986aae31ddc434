"""Work that is done again and again beside answering, in a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from data.contract import storage

if TYPE_CHECKING:
    from collections.abc import Callable

Pieces = dict[str, "Callable[[], object]"]


class Rounds:
    """A thread that does pieces of work, again after each pause.

    Args:
        name: of the thread.
        pieces: what a round does, by name, in this order.
        work: does pieces; what fails must not come out of it.
        pause_s: between rounds.
    """

    def __init__(
        self, name: str, pieces: Pieces, work: Callable[[Pieces], None], pause_s: float
    ) -> None:
        self._pieces, self._work, self._pause_s = pieces, work, pause_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins, with a pause."""
        self._thread.start()

    def once(self) -> None:
        """One round, in the thread of who asks."""
        with storage.briefly():
            self._work(self._pieces)

    def stop(self) -> None:
        """Lets no further round begin."""
        self._stopped.set()

    def join(self) -> None:
        """Waits for the round under way."""
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause_s):
            self.once()
