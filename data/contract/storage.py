"""Roots in object storage, worked on through a mirror on local disk.

`root=s3://bucket/company` is mirrored under `<HOMEFEED_MIRROR>/homefeed-mirror/s3/bucket/company`,
by default below the temporary folder, at the same place on every node. A path in a mirror says
where it comes from, so whoever holds one can fetch what is not there yet and put what it has
written; paths outside of mirrors are left alone. Objects appear whole or not at all, and an
artefact's manifest is put last: nothing is ever renamed. What fails is tried again, as `TRIES` has
it.

Any URI that pyarrow or, where it is installed, fsspec understands will do; credentials, region and
endpoint are those of their own environment variables (`AWS_ENDPOINT_URL` and so on), or options of
the URI (`s3://bucket/company?endpoint_override=...`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from pyarrow import fs

from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "homefeed-mirror"
PLACE = "HOMEFEED_MIRROR"
TRIES = (0.2, 1.0, 5.0)  # seconds before each further try
CHUNK = 8 << 20
LAST = "manifest.json"
T = TypeVar("T")


class StorageError(UserError):
    """An object storage that does not do what it is asked."""


def is_uri(root: str) -> bool:
    """Whether a root is a URI, not a path."""
    return "://" in root


def base() -> Path:
    """The folder of this machine's mirrors."""
    return Path(os.environ.get(PLACE, tempfile.gettempdir())).absolute() / MARK


def mirror(root: str) -> Path:
    """The local folder of a root: a URI's mirror, a path as it is."""
    if not is_uri(root):
        return Path(root)
    scheme, _, rest = root.partition("://")
    rest, mark, options = rest.partition("?")
    host, _, path = rest.strip("/").partition("/")
    # Options stand with the host: what lies in a mirror has a longer path.
    return base() / scheme / f"{host}{mark}{options.replace('/', '%2F')}" / path


def is_mirrored(path: Path) -> bool:
    """Whether a path lies in a mirror, this machine's or another's."""
    return MARK in path.parts


def here(path: Path) -> Path:
    """The same path in this machine's mirror."""
    if not is_mirrored(path):
        return path
    return base().joinpath(*path.parts[path.parts.index(MARK) + 1 :])


def uri_of(path: Path) -> str:
    """Where a path in a mirror comes from; other paths as they are."""
    if not is_mirrored(path):
        return str(path)
    scheme, host, *rest = path.parts[path.parts.index(MARK) + 1 :]
    host, mark, options = host.partition("?")
    place = "/".join([host, *rest])
    return f"{scheme}://{'/' if scheme == 'file' else ''}{place}{mark}{options}"


def _filesystem(scheme: str, host: str) -> Any:
    """The file system of a scheme and, with its options, a host."""
    return _opened(scheme, host)[0]


@cache
def _opened(scheme: str, host: str) -> tuple[Any, str]:
    """The file system of a host, and how the places of what lies there begin.

    s3://bucket/a is bucket/a there, hdfs://host:8020/a is /a: a place of our own shows which.
    """
    name, mark, options = host.partition("?")
    uri = f"{scheme}://{name}/{MARK}{mark}{options}"
    try:
        system, place = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError, NotImplementedError) as error:
        system, place = _of_fsspec(uri, error)
    above = place.rpartition(MARK)[0]
    # Azure refuses the slash that abfs://account.dfs.core.windows.net/container comes with.
    return system, above.lstrip("/") if system.type_name == "abfs" else above


def _of_fsspec(uri: str, error: Exception) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # an optional dependency, and rarely wanted

        system, place = url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(system)), place
    except (ImportError, ValueError, OSError):
        scheme = uri.partition("://")[0]
        raise StorageError(f"{scheme}:// is no storage that can be reached: {error}") from error


def _origin(path: Path) -> tuple[Any, str]:
    scheme, *rest = path.parts[path.parts.index(MARK) + 1 :]
    host = "" if scheme == "file" else rest.pop(0)
    place = _opened(scheme, host)[1] + "/".join(rest)
    return _filesystem(scheme, host), place.rstrip("/") or "/"


def place_of(path: Path) -> tuple[Any, str]:
    """File system and place that a path in a mirror comes from, for libraries that write there.

    None and the path itself for others. Raises StorageError.
    """
    return _origin(path) if is_mirrored(path) else (None, str(path))


def _tried(path: Path, doing: str, action: Callable[[], T]) -> T:
    """Does it, again after each pause. Raises StorageError."""
    for pause_s in TRIES:
        try:
            return action()
        except OSError:
            time.sleep(pause_s)
    try:
        return action()
    except OSError as error:
        raise StorageError(
            f"{uri_of(path)} cannot be {doing}: {error}; when the storage answers again, run the "
            "same command to go on"
        ) from error


def check(root: str) -> None:
    """Looks whether a root can be reached. Raises StorageError."""
    path = mirror(root)
    system, place = _origin(path)
    bucket = PurePosixPath(place).parts[0]
    found = _tried(path, "reached", lambda: system.get_file_info(bucket))
    if found.type == fs.FileType.NotFound:
        raise StorageError(f"root={root}: there is no bucket {bucket}; make it first")


def exists(path: Path) -> bool:
    """Whether a file or folder is where a mirror comes from; of other paths, whether it is here."""
    if not is_mirrored(path):
        return path.exists()
    system, place = _origin(path)
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
    system, place = _origin(path)
    info = _tried(path, "read", lambda: system.get_file_info(place))
    if info.type == fs.FileType.NotFound:
        if fresh and path.is_file():
            path.unlink()
        return path.exists()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        _tried(path, "read", lambda: _copied_here(system, info, temporary))
        _take_place(temporary, path)
    finally:
        _forget(temporary)
    return True


def _copied_here(system: Any, info: Any, target: Path) -> None:
    _forget(target)
    if info.type == fs.FileType.Directory:
        target.mkdir()
    for one in _files(system, info.path):
        file = _under(target, info.path, one)
        file.parent.mkdir(parents=True, exist_ok=True)
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
    system, place = _origin(path)
    files = [path] if path.is_file() else [f for f in sorted(path.rglob("*")) if f.is_file()]
    for file in files:
        target = place if file == path else f"{place}/{file.relative_to(path).as_posix()}"
        _tried(file, "written", lambda f=file, t=target: _copied_there(system, f, t))  # type: ignore[misc]


def update(folder: Path) -> None:
    """Brings here what a folder of a mirror has there and not here. Raises StorageError."""
    for one in _there(folder):
        fetch(_under(folder, _origin(folder)[1], one))


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
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            found[info.base_name] = info.mtime_ns or 0, _text(folder, info)
    return found


def _text(folder: Path, info: Any) -> str:
    with _origin(folder)[0].open_input_stream(info.path) as stream:
        text: str = stream.readall().decode()
    return text


def _there(folder: Path) -> list[Any]:
    """Files where a folder of a mirror comes from."""
    if not is_mirrored(folder):
        return []
    system, place = _origin(folder)
    found: list[Any] = _tried(folder, "read", lambda: _files(system, place))
    return found


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:  # removed meanwhile
        return 0


def _copied_there(system: Any, file: Path, target: str) -> None:
    if isinstance(system, fs.LocalFileSystem):
        system.create_dir(str(PurePosixPath(target).parent))
    with file.open("rb") as source, system.open_output_stream(target) as sink:
        shutil.copyfileobj(source, sink, CHUNK)
    # The time there is the file's on every machine.
    time_ns = system.get_file_info(target).mtime_ns
    if time_ns:
        os.utime(file, ns=(time_ns, time_ns))


def remove(path: Path) -> None:
    """Removes a file or a folder here and, of a mirror, where it comes from."""
    _forget(path)
    if not is_mirrored(path):
        return
    system, place = _origin(path)
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
    one = "*" not in path.name
    whole = path if one else path.parent
    system, place = _origin(whole)
    found = _tried(whole, "read", lambda: _files(system, place, recursive=one))
    there = {_under(whole, place, info): info for info in found}
    named = {file: info for file, info in there.items() if one or file.match(path.name)}
    for file, info in named.items():
        fetch(file, fresh=_differs(info, file))
    here_now = [whole, *whole.rglob("*")] if one else whole.glob(path.name)
    for file in set(here_now) - named.keys():
        if file.is_file():
            file.unlink()
    return str(path)


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
    return Path(expand(uri_of(mirror(word) / name))) if is_uri(word) else Path(word, name)
