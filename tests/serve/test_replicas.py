"""Notes of replicas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.contract import mirrors, storage
from data.contract.storage import StorageError
from serve.replicas import LOADING_S, SILENT_S, Replicas


def note_of(replicas: Replicas) -> Path:
    return replicas._file


def test_each_replica_is_told_with_what_it_serves(tmp_path: Path) -> None:
    first, second = Replicas(tmp_path), Replicas(tmp_path)
    assert first.living() == []
    first.note({"bundle": "v1"})
    second.note({"bundle": "v2"})
    assert {note["bundle"] for note in first.living()} == {"v1", "v2"}
    assert {note["pid"] for note in second.living()} == {os.getpid()}
    first.note({"bundle": "v2"})
    assert [note["bundle"] for note in second.living()] == ["v2", "v2"]
    first.close()
    assert len(second.living()) == 1


def test_one_whose_process_is_gone_is_forgotten(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = Replicas(tmp_path), Replicas(tmp_path)
    dead.note({})
    alive.note({})
    note = json.loads(note_of(dead).read_text())
    note_of(dead).write_text(json.dumps(note | {"pid": ended.pid}))
    assert len(alive.living()) == 1
    assert not note_of(dead).exists()


def test_one_that_has_its_number_from_another_process_is_forgotten(tmp_path: Path) -> None:
    gone, alive = Replicas(tmp_path), Replicas(tmp_path)
    for replicas in (gone, alive):
        replicas.note({})
    past = note_of(gone).stat().st_mtime - 2 * SILENT_S
    os.utime(note_of(gone), (past, past))
    assert len(alive.living()) == 2
    past -= LOADING_S
    os.utime(note_of(gone), (past, past))
    assert len(alive.living()) == 1


def test_one_of_another_machine_is_there_while_it_touches_its_note(tmp_path: Path) -> None:
    here, elsewhere = Replicas(tmp_path), Replicas(tmp_path)
    elsewhere._host = "elsewhere"
    elsewhere.note({})
    here.note({})
    assert len(here.living()) == 2
    past = note_of(elsewhere).stat().st_mtime - 2 * SILENT_S
    os.utime(note_of(elsewhere), (past, past))
    elsewhere.note({})
    assert len(here.living()) == 2
    os.utime(note_of(elsewhere), (past, past))
    assert len(here.living()) == 1
    elsewhere.note({})
    assert len(here.living()) == 2


class Machines:
    """Machines with a disk each, and a bucket between them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bucket, self._patch = folder, folder / "bucket", monkeypatch
        self.bucket.mkdir()
        self._of: dict[str, str] = {}

    def replica(self, machine: str) -> Replicas:
        self._patch.setenv(mirrors.PLACE, str(self.folder / machine))
        made = Replicas(storage.mirror(f"file://{self.bucket}"))
        self._of[made.name] = machine
        return made

    def note(self, replicas: Replicas, bundle: str, later: bool = True) -> list[str]:
        """Bundles of all that a replica knows, once it has noted its own."""
        self._patch.setenv(mirrors.PLACE, str(self.folder / self._of[replicas.name]))
        replicas._next *= not later
        replicas.note({"bundle": bundle})
        return sorted(one["bundle"] for one in replicas.living())

    def left(self, replicas: Replicas) -> Path:
        return self.bucket / "replicas" / f"{replicas.name}.json"

    def silence(self, replicas: Replicas, seconds: float) -> None:
        past = self.left(replicas).stat().st_mtime - seconds
        os.utime(self.left(replicas), (past, past))


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch)


def test_machines_with_an_object_storage_between_them_tell_each_other(machines: Machines) -> None:
    first, second = machines.replica("first"), machines.replica("second")
    assert machines.note(first, "v1") == ["v1"]
    assert machines.note(second, "v2") == ["v1", "v2"]
    assert machines.note(first, "v1", later=False) == ["v1"], "not asked for again so soon"
    assert machines.note(first, "v1") == ["v1", "v2"]
    machines.silence(second, 2 * SILENT_S)
    assert machines.note(first, "v1") == ["v1"]
    assert machines.left(second).exists(), "it may only be slow"
    assert machines.note(second, "v4") == ["v1", "v4"]
    assert machines.note(first, "v1") == ["v1", "v4"]
    machines.silence(second, 2 * LOADING_S)
    assert machines.note(first, "v1") == ["v1"]
    assert not machines.left(second).exists()
    machines.note(second, "v5")
    first.close()
    assert machines.note(second, "v5") == ["v5"]


def test_replicas_of_one_machine_keep_their_own_notes(machines: Machines) -> None:
    one, other, away = (machines.replica(name) for name in ("first", "first", "second"))
    for bundle in ("v1", "v2", "v3"):
        for replicas in (one, other, away):
            machines.note(replicas, bundle)
    for replicas in (one, other, away):
        assert machines.note(replicas, "v3") == ["v3"] * 3


def test_a_storage_that_is_away_is_asked_again_later_and_the_note_stays(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machines.replica("first")
    machines.note(first, "v1")
    asked = []

    def fail(path: Path) -> None:
        asked.append(path)
        raise StorageError("away")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "put", fail)
        with pytest.raises(StorageError):
            machines.note(first, "v2")
        assert machines.note(first, "v2", later=False) == ["v2"]
        assert len(asked) == 1
    assert machines.note(first, "v2") == ["v2"]
    assert json.loads(machines.left(first).read_text())["bundle"] == "v2"
