import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.contract import storage
from data.contract.mirrors import PLACE
from ray_jobs.engine import leases
from ray_jobs.engine.leases import Ticket, lease, machine

WAITS = """
import sys
from data.contract import storage
from ray_jobs.engine import leases
from ray_jobs.engine.locks import turn

leases.BEAT_S, leases.LOST_S, leases.POLL_S = 0.2, 2.0, 0.1
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


def test_the_dead_are_passed_and_swept_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, before = Ticket(folder, "b"), Ticket(folder, "a")
    dead.draw()
    before.draw()  # of this machine: whoever has the turn here knows that it has ended
    monkeypatch.setattr(leases, "LOST_S", 0.0)
    told = []
    with lease(folder, "a", lambda: told.append(1)):
        assert len(left(folder)) == 1
    assert not told


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
            time.sleep(3)
            assert second.poll() is None
            first.kill()
            assert second.stdout.readline() == "mine\n"
            second.communicate("")
        assert second.returncode == 0
