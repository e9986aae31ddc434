"""Files that tasks leave, one each, for their job to put together; a job run again finds them.

Where a root lies in object storage they go there and come from there: tasks may run on any node,
and only the job's own keeps them until it is done.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from data.contract import storage
from ray_jobs.engine.leases import machine

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Pieces:
    """A folder of such files; travels between processes.

    Attributes:
        folder: of the job's machine.
        home: name of that machine where a root lies in object storage.
    """

    folder: Path
    home: str = ""

    @classmethod
    def begin(cls, root: Path, name: str) -> Self:
        """Those of a piece of work of a root, as far as they were made before."""
        folder = root.absolute() / "checkpoints" / name
        return cls(folder, machine() if storage.is_mirrored(folder) else "")

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """A file, written if it is nowhere yet; it is there whole or not at all.

        Args:
            name: of the file.
            write: writes it where it is told.

        Raises:
            StorageError: the root's storage refuses.
        """
        path = storage.here(self.folder) / name
        if storage.fetch(path) if self._is_home() else storage.exists(path):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{name}.{uuid.uuid4().hex[:8]}")
        write(part)
        storage.put_as(part, path)
        if self._is_home():
            part.replace(path)
        else:
            part.unlink()

    def _is_home(self) -> bool:
        return not self.home or self.home == machine()

    def found(self, name: str) -> Path:
        """A file that was made before, on this machine."""
        path = storage.here(self.folder) / name
        storage.fetch(path)
        return path

    def gathered(self) -> Path:
        """The folder, with what tasks on other nodes have left."""
        storage.update(self.folder)
        return self.folder
