"""Mirrors of object storage on local disk: which folder stands for which place, and back.

Any URI that pyarrow or, where it is installed, fsspec understands will do; credentials, region and
endpoint are those of their own environment variables (`AWS_ENDPOINT_URL` and so on), or options of
the URI (`s3://bucket/company?endpoint_override=...`).
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pyarrow import fs

from data.contract.settings import UserError

MARK = "homefeed-mirror"
PLACE = "HOMEFEED_MIRROR"


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


def filesystem(scheme: str, host: str) -> Any:
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


def origin(path: Path) -> tuple[Any, str]:
    """File system and place that a path in a mirror comes from. Raises StorageError."""
    scheme, *rest = path.parts[path.parts.index(MARK) + 1 :]
    host = "" if scheme == "file" else rest.pop(0)
    place = _opened(scheme, host)[1] + "/".join(rest)
    return filesystem(scheme, host), place.rstrip("/") or "/"
