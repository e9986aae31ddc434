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
    for action in (write, refuse):
        pieces.make("item-00000.arrow", action)
        assert pieces.found("item-00000.arrow").read_text() == "rows"
    assert [file.name for file in pieces.gathered().iterdir()] == ["item-00000.arrow"]


def test_a_half_written_piece_is_not_there(tmp_path: Path) -> None:
    pieces = Pieces.begin(tmp_path, "sample-v1")
    with pytest.raises(OSError, match="no room"):
        pieces.make("a", refuse)
    assert not list(pieces.folder.glob("[!.]*"))
    pieces.make("a", write)
    assert pieces.found("a").read_text() == "rows"


def test_nodes_leave_their_pieces_to_the_driver(
    tmp_path: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "driver"))
    pieces = Pieces.begin(storage.mirror(f"file://{remote}"), "sample-v1")
    pieces.make("a", write)
    mine = pieces.found("a")
    monkeypatch.setenv(PLACE, str(tmp_path / "node"))
    pieces.make("b", write)
    for made in ("a", "b"):
        pieces.make(made, refuse)
    assert not [f for f in (tmp_path / "node").rglob("*") if f.is_file() and f.name != "machine"]
    monkeypatch.setenv(PLACE, str(tmp_path / "driver"))
    assert sorted(file.name for file in pieces.gathered().iterdir()) == ["a", "b"]
    assert mine.read_text() == (mine.parent / "b").read_text() == "rows"
