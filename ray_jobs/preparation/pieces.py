"""Files that tasks leave, one each, for their job to put together; a job run again finds them.

Where a root lies in object storage they go there and come from there: tasks may run on any node.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from data.contract import storage

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Pieces:
    """A folder of such files; travels between processes.

    Attributes:
        folder: of the job's machine.
    """

    folder: Path

    @classmethod
    def begin(cls, root: Path, name: str) -> Self:
        """Those of a piece of work of a root, as far as they were made before."""
        return cls(root.absolute() / "checkpoints" / name)

    def make(self, name: str, write: Callable[[Path], None]) -> Path:
        """A file on this machine, written if it is nowhere yet; it is there whole or not at all.

        Args:
            name: of the file.
            write: writes it where it is told.

        Raises:
            StorageError: the root's storage refuses.
        """
        path = storage.here(self.folder) / name
        if not storage.fetch(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{name}.{uuid.uuid4().hex[:8]}")
            write(part)
            storage.put_as(part, path)
            part.replace(path)
        return path

    def found(self, name: str) -> Path:
        """A file that was made before, on this machine."""
        path = storage.here(self.folder) / name
        storage.fetch(path)
        return path

    def gathered(self) -> Path:
        """The folder, with what tasks on other nodes have left."""
        storage.update(self.folder)
        return self.folder
