"""Writes that wait together share a commit, and fail alone."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from serve.group_commit import GroupCommit


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Any]:
    with lmdb.open(str(tmp_path / "store")) as opened:
        yield opened


def value(environment: Any, key: bytes) -> Any:
    with environment.begin() as transaction:
        return transaction.get(key)


def test_what_is_acknowledged_is_committed(environment: Any) -> None:
    writer = GroupCommit(environment)
    assert writer(lambda t: t.put(b"a", b"1")) is True
    assert value(environment, b"a") == b"1"
    writer.close()


def test_writes_that_arrive_during_one_share_the_next_commit(environment: Any) -> None:
    writer, gate, begun = GroupCommit(environment), threading.Event(), threading.Event()
    before = environment.info()["last_txnid"]

    def put(key: bytes) -> None:
        writer(lambda t: t.put(key, key))

    def wait(_: Any) -> None:
        begun.set()
        gate.wait(10)

    first = threading.Thread(target=writer, args=(wait,))
    first.start()
    assert begun.wait(10)
    others = [threading.Thread(target=put, args=(b"%d" % n,)) for n in range(20)]
    for other in others:
        other.start()
    end = time.monotonic() + 10
    while writer._waiting.qsize() < 20 and time.monotonic() < end:
        time.sleep(0.01)
    gate.set()
    for thread in (first, *others):
        thread.join(10)
    assert all(value(environment, b"%d" % n) for n in range(20))
    assert environment.info()["last_txnid"] - before <= 2
    writer.close()


def test_a_write_that_fails_leaves_the_others_of_its_group(environment: Any) -> None:
    writer, gate = GroupCommit(environment), threading.Event()
    errors: list[Exception] = []

    def broken(transaction: Any) -> None:
        transaction.put(b"half", b"1")
        raise RuntimeError("no")

    def fail() -> None:
        try:
            writer(broken)
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=lambda: writer(lambda t: gate.wait(10)))]
    threads += [threading.Thread(target=fail)]
    threads += [threading.Thread(target=lambda: writer(lambda t: t.put(b"good", b"1")))]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 1
    assert value(environment, b"half") is None
    assert value(environment, b"good") == b"1"
    writer.close()


def test_when_the_disk_refuses_every_write_of_the_group_is_told(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "small"), map_size=1 << 16) as environment:
        writer = GroupCommit(environment)
        with pytest.raises(lmdb.Error):
            writer(lambda t: t.put(b"a", b"x" * (1 << 17)))
        assert writer(lambda t: t.put(b"b", b"1")) is True
        writer.close()


def test_closing_writes_what_waits(environment: Any) -> None:
    writer = GroupCommit(environment)
    thread = threading.Thread(target=lambda: writer(lambda t: t.put(b"a", b"1")))
    thread.start()
    thread.join(10)
    writer.close()
    assert value(environment, b"a") == b"1"
