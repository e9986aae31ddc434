"""Notes that the replicas of a root leave for one another: who is there and what each serves.

`<root>/replicas/<host>-<pid>-<number>.json`, touched with every round of background work. A request
reaches one replica alone; by the notes each can tell of all.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FOLDER = "replicas"
SILENT_S = 30.0
LOADING_S = 600.0  # a process that is there may be opening a bundle, or be another of its number


class Replicas:
    """The notes of a root, one of them this replica's own.

    Args:
        root: the root.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER
        self._host = socket.gethostname()
        self.name = f"{self._host}-{os.getpid()}-{uuid.uuid4().hex[:4]}"
        self._file = self._folder / f"{self.name}.json"
        self._text = ""

    def note(self, facts: Mapping[str, Any]) -> None:
        """Writes what this replica serves if it has changed, else shows that it is alive."""
        text = json.dumps({"host": self._host, "pid": os.getpid(), **facts})
        if text == self._text and self._file.exists():
            os.utime(self._file)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self._file)
        self._text = text

    def living(self) -> list[dict[str, Any]]:
        """Notes of the replicas that are there; those of others are cleared away."""
        return [note for path in sorted(self._folder.glob("*.json")) for note in self._read(path)]

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            note = json.loads(path.read_text())
            silent_s = time.time() - path.stat().st_mtime
        except (OSError, ValueError):
            return  # its replica has just ended
        here = note["host"] == self._host and psutil.pid_exists(note["pid"])
        elsewhere = note["host"] != self._host
        if silent_s < LOADING_S if here else elsewhere and silent_s < SILENT_S:
            yield note
        else:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Takes this replica's note away."""
        with suppress(OSError):
            self._file.unlink()
