import math
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from data.contract import filesystems, storage
from data.contract.filesystems import StorageError, Timeouts, briefly, opened
from data.contract.mirrors import PLACE
from tests.object_store import BUCKET, Slowed, running_s3, slowed


@pytest.fixture(scope="module")
def slow() -> Iterator[Slowed]:
    with (
        pytest.MonkeyPatch.context() as patch,
        running_s3() as variables,
        slowed(variables["AWS_ENDPOINT_URL"]) as way,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield way


@pytest.fixture
def root(slow: Slowed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """By the slow way, with a client that waits three seconds and one that waits one."""
    monkeypatch.setenv(PLACE, str(tmp_path))
    monkeypatch.setattr(filesystems, "PATIENT", Timeouts(3.0, 3.0))
    monkeypatch.setattr(filesystems, "BRIEF", Timeouts(1.0, 1.0))
    monkeypatch.setattr(storage, "TRIES", ())
    slow.seconds = 0.0
    return storage.mirror(f"s3://{BUCKET}/{tmp_path.name}?endpoint_override={slow.url}")


def seconds_of_a_failure(path: Path) -> float:
    start = time.monotonic()
    with pytest.raises(StorageError, match="cannot be read"):
        storage.exists(path)
    return time.monotonic() - start


def test_what_is_slow_is_waited_for_and_by_servers_less(root: Path, slow: Slowed) -> None:
    slow.seconds = 1.2
    root.mkdir(parents=True)
    (root / "note").write_text("written")
    storage.put(root / "note")
    assert storage.exists(root / "note")
    with briefly():
        seconds_of_a_failure(root / "note")


def test_what_is_silent_is_given_up_and_sooner_by_servers(root: Path, slow: Slowed) -> None:
    slow.seconds = math.inf
    with briefly():
        brief = seconds_of_a_failure(root)
    assert brief < 9
    assert seconds_of_a_failure(root) > 9  # three times three
    slow.seconds = 0.0
    assert storage.exists(root) is False


def test_small_objects_are_put_in_one_request(root: Path, slow: Slowed) -> None:
    system, place = storage.place_of(root)
    slow.asked.clear()
    with system.open_output_stream(f"{place}/small") as sink:
        sink.write(b"small")
    assert slow.asked == ["PUT"]


def test_other_processes_wait_as_long() -> None:
    system, _ = opened("s3", "bucket?region=here&endpoint_override=http://h:1")
    with briefly():
        hasty, _ = opened("s3", "bucket?region=here&endpoint_override=http://h:1")
    assert not system.equals(hasty)
    assert pickle.loads(pickle.dumps(system)).equals(system)


def test_other_file_systems_are_as_their_library_makes_them() -> None:
    assert opened("file", "") == (fs.LocalFileSystem(), "/")
