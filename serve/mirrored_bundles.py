"""Bundles in this machine's mirror of a storage: those that nobody serves go after a while.

Only the copies here go. What is open stays readable without its files; what is being opened was
`wanted` just before, and stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING

from data.contract import storage
from data.contract.artifact import MANIFEST, POINTER

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

IDLE_S = 3600.0  # a bundle that was fetched, or wanted, within an hour stays


def wanted(bundle: Path) -> None:
    """Notes, for whoever clears this mirror, that a bundle in it is about to be opened."""
    if storage.is_mirrored(bundle):
        with contextlib.suppress(FileNotFoundError):  # not fetched yet: then it will be new
            os.utime(storage.here(bundle))


def clear(folder: Path, served: Container[str]) -> None:
    """Removes what nobody serves from a mirror of bundles.

    Args:
        folder: of the bundles; nothing is done to one that is no mirror.
        served: versions that stay; what the pointer names stays too.

    Raises:
        StorageError: the storage does not answer.
    """
    if not storage.is_mirrored(folder) or not folder.is_dir():
        return
    idle = [one for one in folder.iterdir() if one.name not in served and _is_idle(one)]
    current = (storage.text(folder / POINTER) or "").strip() if idle else ""
    for one in idle:
        if one.name != current:
            (one / MANIFEST).unlink(missing_ok=True)  # half a bundle is none
            shutil.rmtree(one, ignore_errors=True)


def _is_idle(bundle: Path) -> bool:
    """Whether a bundle is whole, not being made, and was not wanted of late."""
    try:
        silent_s = time.time() - bundle.stat().st_mtime
    except FileNotFoundError:  # cleared by another
        return False
    return silent_s > IDLE_S and (bundle / MANIFEST).is_file()
