"""An index is not asked by a user tower that it was not made for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from data.contract.artifact import checksum, read
from data.contract.settings import UserError
from serve.bundle import Bundle
from serve.pairing import FILE, PARTS, check_pairing, write_pairing


@pytest.fixture
def folder(root: Path) -> Path:
    """A bundle with a note of its towers."""
    path = root / "bundles" / "v1"
    write_pairing(path, {"two_tower": "tt1", "ranker": "r1"})
    return path


def sealed_again(folder: Path) -> None:
    """The checksums are those of the files as they are now."""
    document = json.loads((folder / "manifest.json").read_text())
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json")
    document["checksums"] = {f.relative_to(folder).as_posix(): checksum(f) for f in files}
    (folder / "manifest.json").write_text(json.dumps(document))


def test_a_pair_serves(folder: Path) -> None:
    sealed_again(folder)
    assert Bundle.open(folder).versions["two_tower"] == "tt1"


def test_a_bundle_without_a_note_is_of_an_earlier_release(root: Path) -> None:
    check_pairing(read(root / "bundles" / "v1"))


def test_an_index_of_other_towers_is_refused_naming_both(
    folder: Path, edit_manifest: Callable[[Path, dict[str, Any]], None]
) -> None:
    details = json.loads((folder / "manifest.json").read_text())["details"]
    details["versions"]["two_tower"] = "tt2"
    edit_manifest(folder, {"details": details})
    with pytest.raises(UserError, match=r"by two_tower/tt1, but its user tower .* two_tower/tt2"):
        Bundle.open(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_came_later_is_refused_by_name(
    folder: Path, part: str, publish_bundle: Callable[..., Path]
) -> None:
    made = checksum(folder / part)
    if part.endswith(".onnx"):
        program = onnx.load(folder / part)
        program.doc_string = "of other towers"
        onnx.save(program, folder / part)
    else:
        publish_bundle(folder.parents[1], "v2", scale=0.02)
        shutil.copy(folder.parent / "v2" / part, folder / part)
    sealed_again(folder)
    other = checksum(folder / part)
    with pytest.raises(UserError, match=rf"{part} \({other[:12]}\) is not the one \({made[:12]}\)"):
        Bundle.open(folder)


def test_the_note_names_the_towers_and_every_part(folder: Path) -> None:
    note = json.loads((folder / FILE).read_text())
    assert note == {"two_tower": "tt1", "parts": {part: checksum(folder / part) for part in PARTS}}
