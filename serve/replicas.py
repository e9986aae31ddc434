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
EXCHANGE_S = 10.0  # between looks into an object storage
LOADING_S = 600.0  # a process that is there may be opening a bundle, or be another of its number


def served_bundles(root: Path) -> set[str]:
    """Versions that some replica may serve, by all notes here and where a mirror comes from.

    Raises:
        StorageError: the root's storage does not answer.
    """
    there = (json.loads(text) for _, text in storage.texts(root / FOLDER).values())
    notes = [*Replicas(root).living(), *there]
    return {name for note in notes for name in (note["versions"]["bundle"], *note.get("arms", ()))}


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
        self._next = 0.0
        self._elsewhere: list[dict[str, Any]] = []

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
        if storage.is_mirrored(self._folder) and (changed or time.monotonic() >= self._next):
            self._next = time.monotonic() + EXCHANGE_S
            self._exchange()

    def _exchange(self) -> None:
        """Shows this note to other machines, and reads theirs; ages are by the storage's clock."""
        storage.put(self._file)
        found = storage.texts(self._folder)
        now_ns = found.get(self._file.name, (0, ""))[0]
        ages = {name: (now_ns - at) / 1e9 for name, (at, _) in found.items()}
        notes = {name: json.loads(text) for name, (_, text) in found.items()}
        self._elsewhere = [
            note
            for name, note in notes.items()
            if not (self._folder / name).exists() and ages[name] < SILENT_S
        ]
        for name in notes:
            if ages[name] > LOADING_S:
                storage.remove(self._folder / name)

    def living(self) -> list[dict[str, Any]]:
        """Notes of the replicas that are there; those of others are cleared away."""
        paths = sorted(self._folder.glob("*.json"))
        return [note for path in paths for note in self._read(path)] + self._elsewhere

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
        with suppress(OSError, StorageError):
            storage.remove(self._file)
