"""Mirrors of object storage on local disk: which folder stands for which place, and back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from data.contract import filesystems
from data.contract.passwords import concealed

MARK = "homefeed-mirror"
PLACE = "HOMEFEED_MIRROR"


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
    """Where a path in a mirror comes from, to be shown; other paths as they are."""
    if not is_mirrored(path):
        return str(path)
    scheme, host, *rest = path.parts[path.parts.index(MARK) + 1 :]
    host, mark, options = host.partition("?")
    place = "/".join([host, *rest])
    return concealed(f"{scheme}://{'/' if scheme == 'file' else ''}{place}{mark}{options}")


def origin(path: Path) -> tuple[Any, str]:
    """File system and place that a path in a mirror comes from. Raises StorageError."""
    scheme, *rest = path.parts[path.parts.index(MARK) + 1 :]
    host = "" if scheme == "file" else rest.pop(0)
    system, above = filesystems.opened(scheme, host)
    return system, (above + "/".join(rest)).rstrip("/") or "/"
