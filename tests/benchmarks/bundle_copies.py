"""Roots and bundles that share their files with others: links, but for what is changed."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.artifact import MANIFEST, POINTER, checksum, write_atomically
from serve.bundle import KIND
from serve.pairing import FILE, MODEL, write_pairing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VECTORS = "item_embeddings.npy"
TWIN, BROKEN, STRANGER, OTHER_TOWERS = (mark * 12 for mark in "abcd")


def linked_root(root: Path, folder: Path) -> Path:
    """A root that serves what `root` serves, with a store and a log of its own."""
    version = (root / KIND / POINTER).read_text().strip()
    link_tree(root / KIND / version, folder / KIND / version)
    point(folder, version)
    return folder


def link_tree(source: Path, target: Path) -> None:
    """Links all files, or copies them where another disk lies between."""
    for file in source.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                shutil.copyfile(file, place)


def point(root: Path, version: str) -> None:
    """Lets the root's servers take a version."""
    write_atomically(root / KIND / POINTER, f"{version}\n")


def copied(
    root: Path, version: str, name: str, change: Callable[[Path, dict[str, Any]], None]
) -> str:
    """Another version of a bundle, with something changed before it is sealed.

    Args:
        root: the root.
        version: what is copied.
        name: of the copy.
        change: given its folder and the details of its manifest.
    """
    source, target = root / KIND / version, root / KIND / name
    link_tree(source, target)
    document = json.loads((target / MANIFEST).read_text())
    change(target, document["details"])
    sums = {file: checksum(target / file) for file in document["checksums"]}
    (target / MANIFEST).unlink()  # a link to the other's
    write_atomically(target / MANIFEST, json.dumps(document | {"version": name, "checksums": sums}))
    return name


def twin(root: Path, version: str) -> str:
    """The same under another version."""
    return copied(root, version, TWIN, lambda folder, details: None)


def broken(root: Path, version: str) -> str:
    """The same with one bit of its vectors flipped after it was sealed."""
    copied(root, version, BROKEN, lambda folder, details: None)
    path = root / KIND / BROKEN / VECTORS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    replace_file(path, bytes(content))
    return BROKEN


def stranger(root: Path, version: str) -> str:
    """The same with index and vectors of another export, whose space is another."""

    def change(folder: Path, details: dict[str, Any]) -> None:
        vectors = np.load(folder / VECTORS)
        (folder / VECTORS).unlink()
        np.save(folder / VECTORS, np.ascontiguousarray(vectors[:, ::-1]))
        (folder / FILE).unlink(missing_ok=True)
        write_pairing(folder, {**details["versions"], MODEL: OTHER_TOWERS})

    return copied(root, version, STRANGER, change)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file that other folders may have links to, which keep the old one."""
    path.unlink()
    path.write_bytes(content)
