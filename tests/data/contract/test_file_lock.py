from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from data.contract.file_lock import locked

if TYPE_CHECKING:
    from pathlib import Path


def test_a_lock_is_shared_or_had_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    with (
        locked(file, fcntl.LOCK_SH),
        locked(file, fcntl.LOCK_SH),
        pytest.raises(BlockingIOError),
    ):
        locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB).close()


def test_who_waited_for_a_file_that_its_holder_removes_has_the_one_that_others_find(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.lock"
    first = locked(file)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(locked, file)
        while not second.running():
            pass
        file.unlink()
        first.close()
        with second.result(timeout=60), pytest.raises(BlockingIOError):
            locked(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_file_is_open_for_what_nfs_asks_of_either_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "a.lock") as stream:
        assert stream.readable()
        assert stream.writable()
