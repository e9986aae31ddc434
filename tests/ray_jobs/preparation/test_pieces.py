from pathlib import Path

import pytest

from data.contract import storage
from data.contract.mirrors import PLACE
from ray_jobs.preparation.pieces import Pieces


def write(path: Path) -> None:
    path.write_text("rows")


def refuse(path: Path) -> None:
    path.write_text("ro")
    raise OSError("no room")


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """The folder that stands for a bucket."""
    folder = tmp_path / "remote"
    folder.mkdir()
    return folder


def test_a_piece_is_made_once(tmp_path: Path) -> None:
    pieces = Pieces.begin(tmp_path, "sample-v1")
    made = pieces.make("item-00000.arrow", write)
    assert pieces.make("item-00000.arrow", refuse) == made == pieces.found("item-00000.arrow")
    assert [file.name for file in pieces.gathered().iterdir()] == ["item-00000.arrow"]


def test_a_half_written_piece_is_not_there(tmp_path: Path) -> None:
    pieces = Pieces.begin(tmp_path, "sample-v1")
    with pytest.raises(OSError, match="no room"):
        pieces.make("a", refuse)
    assert not list(pieces.folder.glob("[!.]*"))
    assert pieces.make("a", write).read_text() == "rows"


def test_nodes_leave_their_pieces_to_the_driver(
    tmp_path: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "driver"))
    pieces = Pieces.begin(storage.mirror(f"file://{remote}"), "sample-v1")
    mine = pieces.make("a", write)
    monkeypatch.setenv(PLACE, str(tmp_path / "node"))
    theirs = pieces.make("b", write)
    assert theirs.is_relative_to(tmp_path / "node")
    assert pieces.make("a", refuse).is_relative_to(tmp_path / "node")
    monkeypatch.setenv(PLACE, str(tmp_path / "driver"))
    assert sorted(file.name for file in pieces.gathered().iterdir()) == ["a", "b"]
    assert mine.read_text() == (mine.parent / "b").read_text() == "rows"
