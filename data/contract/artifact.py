"""Artefacts: directories with a manifest, visible only when whole.

Layout under a root: `<root>/<kind>/<version>/` holds the files and, written last, `manifest.json`;
`<root>/<kind>/CURRENT` names the version that consumers take. The version is the hash of what went
in (parents, settings, code), so the same inputs find the artefact that is already there.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.contract import storage
from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MANIFEST = "manifest.json"
POINTER = "CURRENT"
CODE_VERSION = "0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an artefact is, where it came from and what it fits.

    Attributes:
        kind: what it is: dataset, two_tower, ranker, bundle ...
        version: hash of parents, settings and code.
        created: UTC time of publication, ISO 8601.
        parents: kind, version of each artefact that it was made from.
        settings: the settings that made it.
        window: first and last day (1-based) whose labels it has learnt from, if any.
        id_space: name -> {major, rows, version} of each id space its rows refer to.
        dim: width of its vectors, if it holds any.
        dtype: number format of its vectors.
        normalised: whether its vectors have unit length.
        metric: how its vectors are compared: "inner_product".
        metrics: what was measured while making it.
        details: facts of this kind alone (counts, feature spec ...).
        seconds: that making it took, without what was made on the way, where that was measured; of
            a training that was taken up again since then.
        peak_mib: highest memory of the process tree meanwhile, likewise.
        phases_mib: the same of its phases that were told apart, and of the rest, by name.
        code: version of the code that wrote it.
        checksums: file -> SHA-256 of its content.
    """

    kind: str
    version: str
    created: str
    parents: list[dict[str, str]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    window: list[int] | None = None
    id_space: dict[str, dict[str, Any]] = field(default_factory=dict)
    dim: int | None = None
    dtype: str | None = None
    normalised: bool | None = None
    metric: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    peak_mib: float | None = None
    phases_mib: dict[str, float] = field(default_factory=dict)
    code: str = CODE_VERSION
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How messages name the artefact."""
        return f"{self.kind}/{self.version}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published directory and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        """Kind, as in the manifest."""
        return self.manifest.kind

    @property
    def version(self) -> str:
        """Version, as in the manifest."""
        return self.manifest.version

    def reference(self) -> dict[str, str]:
        """The line that a child's manifest keeps of this artefact."""
        return {"kind": self.kind, "version": self.version}

    def verify(self) -> None:
        """Compares every file with its checksum. Raises UserError naming the first that differs."""
        for name, expected in self.manifest.checksums.items():
            file = self.path / name
            if not file.is_file():
                raise UserError(f"{self.manifest.name} lacks {name}; publish it again")
            if checksum(file) != expected:
                uri = storage.uri_of(file)
                raise UserError(f"{uri} does not match its checksum; publish it again")


@dataclass(slots=True)
class Draft:
    """An artefact being written: fill `path` and the fields, then leave the `publish` block.

    Attributes:
        path: folder of its files.
        fields: of its manifest.
        confirm: is called before others see anything of it, and again before they see all of it;
            raises where they may not.
        scratch: folders of what it is made from, of no use once it is published.
    """

    path: Path
    fields: dict[str, Any]
    confirm: Callable[[], None] = lambda: None
    scratch: list[Path] = field(default_factory=list)


def version_of(parents: list[dict[str, str]], settings: Mapping[str, Any]) -> str:
    """Hash of what an artefact is made from, 12 hexadecimal digits."""
    text = json.dumps([parents, settings, CODE_VERSION], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def find(root: Path, kind: str, version: str) -> Artifact | None:
    """The artefact if it is there and whole, else None; in a mirror alone it is not there."""
    path = root / kind / version
    return read(path) if is_whole(path) and storage.exists(path / MANIFEST) else None


def read(path: Path) -> Artifact:
    """Opens a published artefact, fetched if need be. Raises UserError when it has no manifest."""
    path = folder(path)
    return Artifact(path, Manifest(**json.loads((path / MANIFEST).read_text())))


def peek(path: Path) -> Manifest | None:
    """What an artefact says of itself, without its files being fetched; None where there is none.

    Raises:
        StorageError: the storage does not answer.
    """
    file = storage.here(path) / MANIFEST
    text = file.read_text() if file.is_file() else storage.text(path / MANIFEST)
    return None if text is None else Manifest(**json.loads(text))


def folder(path: Path) -> Path:
    """Where a published artefact lies here, fetched if need be. Raises UserError as `read` does."""
    if not is_whole(path):
        uri = storage.uri_of(path)
        raise UserError(f"{uri} holds no {MANIFEST}; the job that writes it has not finished")
    return storage.here(path)


def is_whole(path: Path) -> bool:
    """Whether an artefact is here, or can be brought here, with its manifest."""
    file = storage.here(path) / MANIFEST
    if not file.is_file() and storage.exists(path / MANIFEST):
        storage.fetch(path, fresh=True)
    return file.is_file()


def renew(path: Path) -> bool:
    """Brings an artefact here as it was published last; whether it is where it comes from.

    What is here already may be of an earlier publication.

    Raises:
        StorageError: the storage does not answer.
    """
    there, file = storage.text(path / MANIFEST), storage.here(path) / MANIFEST
    if there is not None and not (file.is_file() and file.read_text() == there):
        storage.fetch(path, fresh=True)
    return there is not None


def current(root: Path, kind: str) -> Artifact:
    """The artefact that `<kind>/CURRENT` names. Raises UserError when there is none."""
    pointer = storage.here(root) / kind / POINTER
    if not has_current(root, kind):
        uri = storage.uri_of(root)
        raise UserError(f"{uri} has no {kind} yet; run the job that makes it first")
    return read(root / kind / pointer.read_text().strip())


def has_current(root: Path, kind: str) -> bool:
    """Whether `current` would find an artefact."""
    return storage.fetch(root / kind / POINTER, fresh=True)


def point(root: Path, artifact: Artifact) -> None:
    """Makes `artifact` the current one of its kind: one atomic write."""
    write_atomically(root / artifact.kind / POINTER, artifact.version + "\n")


@contextmanager
def publish(root: Path, kind: str, version: str, **fields: Any) -> Iterator[Draft]:
    """Gives a directory to write into; on leaving, the manifest makes it visible.

    What an interrupted run left behind is cleared at the start. Use `point` to make the result
    current. Fields of the manifest may be given here or set in `draft.fields`.
    """
    path = root / kind / version
    storage.remove(path)
    path.mkdir(parents=True)
    draft = Draft(path, dict(fields))
    yield draft
    seal(draft, kind, version)
    for folder in draft.scratch:
        storage.remove(folder)


def seal(draft: Draft, kind: str, version: str) -> None:
    """Writes the manifest of a finished draft, where all else is there."""
    draft.confirm()
    storage.put(draft.path)
    files = sorted(f for f in draft.path.rglob("*") if f.is_file())
    sums = {f.relative_to(draft.path).as_posix(): checksum(f) for f in files}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"kind": kind, "version": version, "created": created, "checksums": sums}
    draft.confirm()
    write_atomically(draft.path / MANIFEST, json.dumps(document | draft.fields, indent=1))


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Gives a place to write a file at; on leaving, it appears at its path whole, or not at all.

    Then it is on disk, whatever becomes of the machine; of a mirror, first where that comes from.

    Raises:
        StorageError: the storage does not answer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield part
        _flush(part)
        storage.put_as(part, path)
        part.replace(path)
        _flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_atomically(path: Path, text: str) -> None:
    """Writes a small text file so that readers see the old or the new one, never half."""
    with appearing(path) as part:
        part.write_text(text)
