"""Roots in object storage, worked on through a mirror on local disk.

`root=s3://bucket/company` is mirrored under `<HOMEFEED_MIRROR>/homefeed-mirror/s3/bucket/company`,
by default below the temporary folder, at the same place on every node. A path in a mirror says
where it comes from, so whoever holds one can fetch what is not there yet and put what it has
written; paths outside of mirrors are left alone. Objects appear whole or not at all, and an
artefact's manifest is put last: nothing is ever renamed. What says that something is done appears
there before it does here. What fails is tried again, as `TRIES` has it, unless it is refused for
good; by servers, which look again soon, `briefly`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from pyarrow import fs

from data.contract.filesystems import StorageError, briefly, is_brief
from data.contract.mirrors import (
    here,
    is_mirrored,
    is_uri,
    mirror,
    origin,
    uri_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = (0.2, 1.0, 5.0, 15.0, 45.0)  # seconds before each further try
REFUSED = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "NO_SUCH_BUCKET"),
    *("SIGNATURE_DOES_NOT_MATCH", "MISSING_AUTHENTICATION_TOKEN"),
)
CHUNK = 8 << 20
LAST = "manifest.json"
BRIEF = 1  # of them, by servers
T = TypeVar("T")
# With what those need of `mirrors` who fetch and put.
__all__ = [
    "StorageError",
    "briefly",
    "brought",
    "changes",
    "check",
    "exists",
    "expand",
    "fetch",
    "here",
    "is_mirrored",
    "is_uri",
    "mirror",
    "names",
    "place_of",
    "put",
    "put_as",
    "remove",
    "text",
    "texts",
    "update",
    "uri_of",
]


def place_of(path: Path) -> tuple[Any, str]:
    """File system and place that a path in a mirror comes from, for libraries that write there.

    None and the path itself for others. Raises StorageError.
    """
    return origin(path) if is_mirrored(path) else (None, str(path))


def _tried(path: Path, doing: str, action: Callable[[], T]) -> T:
    """Does it, again after each pause. Raises StorageError."""
    for pause_s in (*(TRIES[:BRIEF] if is_brief() else TRIES), None):
        try:
            return action()
        except OSError as error:
            refused = _is_refused(error)
            if pause_s is None or refused:
                mend = "mend its access" if refused else "when the storage answers again"
                raise StorageError(
                    f"{uri_of(path)} cannot be {doing}: {error}; {mend}, and run the same command "
                    "to go on"
                ) from error
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def _is_refused(error: OSError) -> bool:
    """Whether a storage would refuse the same again: of credentials it says so in words."""
    return isinstance(error, PermissionError) or any(word in str(error) for word in REFUSED)


def check(root: str) -> None:
    """Looks whether a root can be reached. Raises StorageError."""
    path = mirror(root)
    system, place = origin(path)
    bucket = PurePosixPath(place).parts[0]
    found = _tried(path, "reached", lambda: system.get_file_info(bucket))
    if found.type == fs.FileType.NotFound:
        raise StorageError(f"root={uri_of(path)}: there is no bucket {bucket}; make it first")


def exists(path: Path) -> bool:
    """Whether a file or folder is where a mirror comes from; of other paths, whether it is here."""
    if not is_mirrored(path):
        return path.exists()
    system, place = origin(path)
    found = _tried(path, "read", lambda: system.get_file_info(place))
    return bool(found.type != fs.FileType.NotFound)


def fetch(path: Path, fresh: bool = False) -> bool:
    """Brings a file or a folder of a mirror here; whether it is there then.

    Args:
        path: in a mirror, else nothing is done.
        fresh: whether to look even if it is here; a file that is gone there goes here too.

    Raises:
        StorageError: the storage does not answer.
    """
    path = here(path)
    if not is_mirrored(path) or (path.exists() and not fresh):
        return path.exists()
    system, place = origin(path)
    info = _tried(path, "read", lambda: system.get_file_info(place))
    if info.type == fs.FileType.NotFound:
        if fresh and path.is_file():
            path.unlink()
        return path.exists()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        _copied_here(path, info, temporary)
        _take_place(temporary, path)
    finally:
        _forget(temporary)
    return True


def _copied_here(path: Path, info: Any, target: Path) -> None:
    """Copies a file or the files of a folder; what fails is one of them, and tried again alone."""
    system = origin(path)[0]
    if info.type == fs.FileType.Directory:
        target.mkdir()
    for one in _tried(path, "read", lambda: _files(system, info.path)):
        file = _under(target, info.path, one)
        file.parent.mkdir(parents=True, exist_ok=True)
        _tried(path, "read", partial(_read, system, one, file))


def _read(system: Any, one: Any, file: Path) -> None:
    with system.open_input_stream(one.path) as source, file.open("wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK)
    if one.mtime_ns:
        os.utime(file, ns=(one.mtime_ns, one.mtime_ns))


def _take_place(temporary: Path, path: Path) -> None:
    """Puts what was fetched where it belongs; of two that fetch a folder one is enough."""
    if temporary.is_file():
        temporary.replace(path)
        return
    if path.is_dir():
        # What was put last is what says that the rest is there.
        found = [f for f in temporary.rglob("*") if f.is_file()]
        for file in sorted(found, key=lambda f: (f.name == LAST, f)):
            target = path / file.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        return
    with contextlib.suppress(OSError):
        temporary.rename(path)


def put(path: Path) -> None:
    """Copies a file or the files of a folder to where a mirror comes from.

    Args:
        path: in a mirror, else nothing is done.

    Raises:
        StorageError: the storage refuses, or does not answer.
    """
    if not is_mirrored(path):
        return
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            put_as(file, file)


def put_as(file: Path, path: Path) -> None:
    """Copies a file to where a path in a mirror comes from; it need not be at the path yet.

    Raises:
        StorageError: the storage refuses, or does not answer.
    """
    if is_mirrored(path):
        system, place = origin(path)
        _tried(path, "written", lambda: _copied_there(system, file, place))


def update(folder: Path) -> None:
    """Brings here what a folder of a mirror has there and not here. Raises StorageError."""
    for one in _there(folder):
        fetch(_under(folder, origin(folder)[1], one))


def names(folder: Path) -> frozenset[str]:
    """Names in a folder; of a mirror, those here and those where it comes from.

    Raises:
        StorageError: the storage does not answer.
    """
    found = {one.name for one in folder.iterdir()} if folder.is_dir() else set[str]()
    if is_mirrored(folder):
        system, place = origin(folder)
        selector = fs.FileSelector(place, allow_not_found=True)
        found |= {
            i.base_name for i in _tried(folder, "read", lambda: system.get_file_info(selector))
        }
    return frozenset(found)


def changes(folder: Path, name: str) -> frozenset[tuple[str, int]]:
    """Files of a name below a folder, and when each last changed, ns by the clock of its place.

    Of a mirror, those here and those where it comes from: other machines write there.

    Raises:
        StorageError: the storage does not answer.
    """
    files = (Path(at) / name for at, _, names in os.walk(folder) if name in names)
    found = {(str(file), _changed_ns(file)) for file in files}
    return frozenset(found | {(i.path, i.mtime_ns) for i in _there(folder) if i.base_name == name})


def texts(folder: Path) -> dict[str, tuple[int, str]]:
    """The small files where a folder of a mirror comes from: when each last changed, and its text.

    Args:
        folder: in a mirror; of others there is nothing to tell.

    Raises:
        StorageError: the storage does not answer.
    """
    found = {}
    for info in _there(folder):
        content = _tried(folder, "read", partial(_text, origin(folder)[0], info.path))
        if content is not None:
            found[info.base_name] = info.mtime_ns or 0, content
    return found


def text(path: Path) -> str | None:
    """A small file as it is where a mirror comes from; None where there is none.

    Raises:
        StorageError: the storage does not answer.
    """
    if not is_mirrored(path):
        return path.read_text() if path.is_file() else None
    return _tried(path, "read", partial(_text, *origin(path)))


def _text(system: Any, place: str) -> str | None:
    """None where it was removed meanwhile."""
    try:
        with system.open_input_stream(place) as stream:
            found: str = stream.readall().decode()
    except FileNotFoundError:
        return None
    return found


def _there(folder: Path) -> list[Any]:
    """Files where a folder of a mirror comes from."""
    if not is_mirrored(folder):
        return []
    system, place = origin(folder)
    found: list[Any] = _tried(folder, "read", lambda: _files(system, place))
    return found


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:  # removed meanwhile
        return 0


def _copied_there(system: Any, file: Path, target: str) -> None:
    local = isinstance(system, fs.LocalFileSystem)
    if local:  # has folders, and shows files that are being written
        system.create_dir(str(PurePosixPath(target).parent))
    name = PurePosixPath(target).name
    place = str(PurePosixPath(target).with_name(f".{name}.{uuid.uuid4().hex[:8]}"))
    with file.open("rb") as source, system.open_output_stream(place if local else target) as sink:
        shutil.copyfileobj(source, sink, CHUNK)
    if local:
        system.move(place, target)
    # The time there is the file's on every machine.
    time_ns = system.get_file_info(target).mtime_ns
    if time_ns:
        os.utime(file, ns=(time_ns, time_ns))


def remove(path: Path) -> None:
    """Removes a file or a folder here and, of a mirror, where it comes from."""
    _forget(path)
    if not is_mirrored(path):
        return
    system, place = origin(path)
    info = _tried(path, "removed", lambda: system.get_file_info(place))
    if info.type != fs.FileType.NotFound:
        folder = info.type == fs.FileType.Directory
        _tried(path, "removed", lambda: _removed(system, place, folder))


def _removed(system: Any, place: str, folder: bool) -> None:
    with contextlib.suppress(FileNotFoundError):  # by another
        (system.delete_dir if folder else system.delete_file)(place)


def _forget(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def expand(pattern: str) -> str:
    """Brings what a URI with `*` in its last part names here; the same pattern in the mirror.

    A company's log is written by others: what has changed there is fetched again, and what is gone
    there goes here too.
    """
    path = mirror(pattern)
    _mirrored(path)
    return str(path)


def _mirrored(path: Path) -> None:
    """Brings what a path of a mirror names here, and lets go of what is gone there."""
    one = "*" not in path.name
    whole = path if one else path.parent
    system, place = origin(whole)
    found = _tried(whole, "read", lambda: _files(system, place, recursive=one))
    there = {_under(whole, place, info): info for info in found}
    named = {file: info for file, info in there.items() if one or file.match(path.name)}
    for file, info in named.items():
        fetch(file, fresh=_differs(info, file))
    here_now = [whole, *whole.rglob("*")] if one else whole.glob(path.name)
    for file in set(here_now) - named.keys():
        if file.is_file():
            file.unlink()


def _files(system: Any, place: str, recursive: bool = True) -> list[Any]:
    """The file of a place, or those of the folder that it is; none where there is nothing."""
    info = system.get_file_info(place)
    if info.type != fs.FileType.Directory:
        return [info] if info.is_file else []
    found = system.get_file_info(fs.FileSelector(place, recursive=recursive))
    return [one for one in found if one.is_file]


def _under(folder: Path, place: str, info: Any) -> Path:
    """Where a file of a place lies in the folder that mirrors it."""
    return folder / PurePosixPath(info.path.lstrip("/")).relative_to(place.lstrip("/"))


def _differs(info: Any, file: Path) -> bool:
    """Whether a file is another there than here, by size and time."""
    mine = file.stat() if file.is_file() else None
    return mine is None or (info.size, info.mtime_ns) != (mine.st_size, mine.st_mtime_ns)


def brought(word: str, name: str = "") -> Path:
    """A path that may be a URI, and lies here then as it is there now.

    Args:
        word: of a file or a folder.
        name: of the file in the folder that is wanted, if not all of it.
    """
    path = mirror(word) / name if is_uri(word) else Path(word, name)
    if is_uri(word):
        _mirrored(path)
    return path
