import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.contract import storage
from data.contract.artifact import Draft
from data.contract.mirrors import PLACE
from data.contract.storage import StorageError
from ray_jobs.engine import leases
from ray_jobs.engine.job import start
from ray_jobs.engine.leases import Ticket, lease, machine

WAITS = """
import sys
from data.contract import storage
from ray_jobs.engine import leases
from ray_jobs.engine.locks import turn

leases.BEAT_S, leases.LOST_S, leases.POLL_S = 0.2, 4.0, 0.1
with turn(storage.mirror(sys.argv[1]), "a-v"):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of tickets, in the mirror of a bucket."""
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    monkeypatch.setattr(leases, "POLL_S", 0.001)
    (tmp_path / "remote").mkdir()
    return storage.mirror(f"file://{tmp_path}/remote") / ".work" / "a-v.tickets"


def left(folder: Path) -> list[str]:
    return sorted(storage.texts(folder))


def test_of_many_machines_one_at_a_time_has_the_turn(folder: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")

    def add(name: str) -> None:
        for _ in range(8):
            with lease(folder, name, lambda: None):
                number = int(count.read_text())
                time.sleep(0.002)
                count.write_text(str(number + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, (f"machine{i}" for i in range(4))))
    assert count.read_text() == "32"
    assert left(folder) == []


def test_who_has_not_chosen_yet_is_waited_for(folder: Path) -> None:
    ours, theirs = Ticket(folder, "a"), Ticket(folder, "b")
    theirs.put()
    ours.draw()
    assert not ours.is_first()
    theirs.draw()
    assert ours.is_first()
    assert not theirs.is_first()


def test_the_dead_are_passed_and_swept_away(folder: Path, tmp_path: Path) -> None:
    dead, before = Ticket(folder, "b"), Ticket(folder, "a")
    dead.draw()
    before.draw()  # of this machine: whoever has the turn here knows that it has ended
    long_ago = time.time() - 2 * leases.LOST_S
    os.utime(tmp_path / "remote" / ".work" / "a-v.tickets" / dead.name, (long_ago, long_ago))
    told = []
    with lease(folder, "a", lambda: told.append(1)):
        assert len(left(folder)) == 1
    assert not told


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Of this machine: writes still to be refused, and those that were."""
    told = {"left": 0, "refused": 0}
    write = leases.write_atomically

    def refusing(path: Path, text: str) -> None:
        if told["left"]:
            told["left"], told["refused"] = told["left"] - 1, told["refused"] + 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text)

    monkeypatch.setattr(leases, "write_atomically", refusing)
    monkeypatch.setattr(leases, "BEAT_S", 0.005)
    return told


def wait_until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_full_disk_does_not_end_the_renewals(folder: Path, disk: dict[str, int]) -> None:
    with lease(folder, "a", lambda: None) as confirm:
        disk["left"] = 3
        wait_until(lambda: disk["refused"] == 3)
        (name,) = left(folder)
        before = storage.texts(folder)[name][0]
        wait_until(lambda: storage.texts(folder)[name][0] > before)
        confirm()


def late(patch: pytest.MonkeyPatch) -> None:
    """From now on no ticket is put in time."""
    patch.setattr(Ticket, "_is_late", lambda _: True)


def another_comes(remote: Path) -> None:
    for folder in remote.rglob("*.tickets"):
        (folder / "b.12345678").write_text("1")


def test_who_could_not_renew_it_in_time_goes_on_if_nobody_came(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(folder, "a", lambda: None) as confirm:
        late(monkeypatch)
        confirm()
    assert left(folder) == []


def test_while_the_disk_refuses_a_late_renewal_nothing_is_confirmed(
    folder: Path, disk: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = Ticket(folder, "a")
    ticket.draw()
    late(monkeypatch)
    disk["left"] = 1
    with pytest.raises(OSError, match="No space"):
        ticket.confirm()
    ticket.confirm()


def test_a_turn_that_another_has_swept_away_is_lost_for_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = Ticket(folder, "a")
    ticket.draw()
    storage.remove(folder / ticket.name)
    with monkeypatch.context() as patch:
        late(patch)
        ticket.put()
    for _ in range(2):
        with pytest.raises(StorageError, match="another machine has taken this one's turn"):
            ticket.confirm()


def test_a_turn_that_was_lost_ends_with_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = lease(folder, "a", lambda: None)
    turn.__enter__()
    late(monkeypatch)
    (tmp_path / "other").write_text("1")
    storage.put_as(tmp_path / "other", folder / "b.12345678")
    with pytest.raises(StorageError, match="nothing was published"):
        turn.__exit__(None, None, None)


def test_what_a_lost_turn_has_made_is_not_published(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start([f"root=file://{tmp_path}/remote"])

    def write(draft: Draft) -> None:
        (draft.path / "rows.bin").write_text("rows")
        another_comes(tmp_path / "remote")

    with monkeypatch.context() as patch:
        late(patch)
        with pytest.raises(StorageError, match="nothing was published"):
            job.make("dataset", [], {}, write)
    assert not list((tmp_path / "remote" / "dataset").rglob("*.*"))
    for ticket in (tmp_path / "remote").rglob("b.12345678"):
        ticket.unlink()
    made = job.make("dataset", [], {}, lambda draft: (draft.path / "rows.bin").touch())
    assert made.path.is_dir()


def test_a_turn_that_is_lost_late_leaves_no_manifest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start([f"root=file://{tmp_path}/remote"])
    put = storage.put

    def slow(path: Path) -> None:
        put(path)
        late(monkeypatch)
        another_comes(tmp_path / "remote")

    def write(draft: Draft) -> None:
        (draft.path / "rows.bin").write_text("rows")
        monkeypatch.setattr(storage, "put", slow)

    with pytest.raises(StorageError, match="nothing was published"):
        job.make("dataset", [], {}, write)
    names = [file.name for file in (tmp_path / "remote" / "dataset").rglob("*.*")]
    assert names == ["rows.bin"]


def test_a_machine_keeps_its_name(folder: Path) -> None:
    assert machine() == machine()
    assert "." not in machine()


def test_a_machine_waits_for_another_and_goes_on_when_that_is_lost(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()

    def start(name: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", WAITS, f"file://{tmp_path}/remote"]
        environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), PLACE: str(tmp_path / name)}
        return subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    with start("one") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        with start("two") as second:
            assert second.stdout is not None
            time.sleep(5)
            assert second.poll() is None
            first.kill()
            assert second.stdout.readline() == "mine\n"
            second.communicate("")
        assert second.returncode == 0
