"""Notes that the replicas of a root leave for one another: who is there and what each serves.

`<root>/replicas/<host>-<pid>-<number>.json`, touched with every round of background work. A request
reaches one replica alone; by the notes each can tell of all. Where the root is in object storage
they go there and come from there.
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

from data.contract import storage
from data.contract.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FOLDER = "replicas"
SILENT_S = 30.0
EXCHANGE_S = 10.0  # of notes by way of an object storage
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
        self._exchanged = -EXCHANGE_S

    def note(self, facts: Mapping[str, Any]) -> None:
        """Writes what this replica serves if it has changed, else shows that it is alive.

        Raises:
            StorageError: the root's storage does not answer.
        """
        text = json.dumps({"host": self._host, "pid": os.getpid(), **facts})
        changed = text != self._text or not self._file.exists()
        if changed:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(text)
            temporary.replace(self._file)
            self._text = text
        else:
            os.utime(self._file)
        if storage.is_mirrored(self._folder):
            self._exchange(changed)

    def _exchange(self, changed: bool) -> None:
        """Shows this note to other machines, and brings theirs here."""
        now = time.monotonic()
        if not changed and now - self._exchanged < EXCHANGE_S:
            return
        storage.put(self._file)
        storage.expand(f"{storage.uri_of(self._folder)}/*.json")
        for path in self._folder.glob("*.json"):
            if not [*self._read(path)]:
                storage.remove(path)
        self._exchanged = now

    def living(self) -> list[dict[str, Any]]:
        """Notes of the replicas that are there; those of others are cleared away."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            notes = [*self._read(path)]
            found += notes
            if not notes and not storage.is_mirrored(path):
                path.unlink(missing_ok=True)
        return found

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

    def close(self) -> None:
        """Takes this replica's note away."""
        with suppress(OSError, StorageError):
            storage.remove(self._file)
