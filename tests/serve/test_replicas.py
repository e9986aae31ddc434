"""Notes of replicas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.contract import storage
from serve.replicas import EXCHANGE_S, LOADING_S, SILENT_S, Replicas


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


def test_machines_with_an_object_storage_between_them_tell_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()

    def machine(name: str) -> Replicas:
        monkeypatch.setenv(storage.PLACE, str(tmp_path / name))
        made = Replicas(storage.mirror(f"file://{bucket}"))
        made._host = name
        return made

    def note(replicas: Replicas, bundle: str) -> list[str]:
        monkeypatch.setenv(storage.PLACE, str(tmp_path / replicas._host))
        replicas.note({"bundle": bundle})
        return sorted(one["bundle"] for one in replicas.living())

    first, second = machine("first"), machine("second")
    assert note(first, "v1") == ["v1"]
    assert note(second, "v2") == ["v1", "v2"]
    assert note(first, "v1") == ["v1"], "not asked for again so soon"
    first._exchanged -= EXCHANGE_S
    assert note(first, "v1") == ["v1", "v2"]
    past = note_of(second).stat().st_mtime - 2 * SILENT_S
    (left,) = bucket.glob(f"replicas/{second.name}.json")
    os.utime(left, (past, past))
    assert note(first, "v3") == ["v3"], "the other has been silent"
    assert not left.exists()
    assert note(second, "v4") == ["v3", "v4"]
    first.close()
    assert note(second, "v5") == ["v5"]
