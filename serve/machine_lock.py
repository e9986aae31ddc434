"""That files are used on one machine at a time: of what others map, a machine sees old pages.

Each process holds a shared lock (flock) on a file that is named by its machine, and looks whether
anybody holds another machine's. Where a file system keeps locks to itself, nothing is noticed.
"""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from data.contract.file_lock import locked
from data.contract.settings import UserError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NAME = "{}.machine"
TRIES, PAUSE_S = 5, 0.1  # others look at the same moment


class MachineLock:
    """Held from now on until it is closed, or this process ends.

    Args:
        folder: of the files.
        machine: this one's name; by default its boot's, which containers of a machine share.

    Raises:
        UserError: a process of another machine holds it.
    """

    def __init__(self, folder: Path, machine: str = "") -> None:
        own = folder / NAME.format(machine or BOOT_ID.read_text().strip())
        self._stream = locked(own, fcntl.LOCK_SH)
        others = [file for file in folder.glob(NAME.format("*")) if file != own]
        if any(_is_held(other) for other in others):
            self.close()
            raise UserError(
                f"{folder} is in use on another machine, and a local store is one machine's: name "
                "a Redis server for all (serve.store=redis://...), or end the server or job there"
            )

    def close(self) -> None:
        """Lets others have it."""
        self._stream.close()


def _is_held(file: Path) -> bool:
    """Whether anybody holds it; what the dead have left is removed."""
    for _ in range(TRIES):
        try:
            with file.open("r+") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink(missing_ok=True)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return False
    return True
