from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from data.contract.settings import UserError
from serve.lmdb_store import LmdbStore
from serve.machine_lock import MachineLock

if TYPE_CHECKING:
    from pathlib import Path

HOLDS = """
import sys
from pathlib import Path
from serve.machine_lock import MachineLock

lock = MachineLock(Path(sys.argv[1]), "other")
print("held", flush=True)
sys.stdin.read()
"""


def test_processes_of_a_machine_share_it(tmp_path: Path) -> None:
    first, second = MachineLock(tmp_path, "a"), MachineLock(tmp_path, "a")
    first.close()
    with pytest.raises(UserError, match="another machine"):
        MachineLock(tmp_path, "b")
    second.close()
    MachineLock(tmp_path, "b").close()


def test_who_was_refused_holds_nothing(tmp_path: Path) -> None:
    first = MachineLock(tmp_path, "a")
    with pytest.raises(UserError):
        MachineLock(tmp_path, "b")
    MachineLock(tmp_path, "a").close()
    first.close()


def test_a_store_that_another_machine_has_open_is_refused_until_that_is_killed(
    tmp_path: Path,
) -> None:
    LmdbStore(tmp_path).close()
    line = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"serve\.store=redis"):
            LmdbStore(tmp_path)
        other.kill()
    with LmdbStore(tmp_path) as store:
        assert store.append([{"event_id": "e", "user_id": 1, "item_id": 2}]).accepted == 1
    assert not (tmp_path / "other.machine").exists()


def test_many_that_start_after_a_reboot_are_all_let_in(tmp_path: Path) -> None:
    for _ in range(20):
        MachineLock(tmp_path, "before").close()
        with ThreadPoolExecutor(8) as pool:
            locks = list(pool.map(lambda _: MachineLock(tmp_path, "after"), range(8)))
        for lock in locks:
            lock.close()
