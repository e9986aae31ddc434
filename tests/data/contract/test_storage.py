import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from data.contract import filesystems, mirrors, storage
from data.contract.artifact import current, find, has_current, point, publish, read
from data.contract.filesystems import PROBE, StorageError
from data.contract.mirrors import PLACE
from data.contract.settings import UserError
from data.raw_tables import expand


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """The folder that stands for a bucket."""
    folder = tmp_path / "remote"
    folder.mkdir()
    return folder


@pytest.fixture
def root(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's mirror of it."""
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    return storage.mirror(f"file://{remote}")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one on another machine."""

    def move() -> None:
        monkeypatch.setenv(PLACE, str(tmp_path / "elsewhere"))

    return move


def made(root: Path, version: str = "v1", text: str = "rows") -> None:
    with publish(root, "dataset", version, parents=[]) as draft:
        (draft.path / "events").mkdir()
        (draft.path / "events" / "part.bin").write_text(text)


def test_a_path_is_its_own_root_and_is_left_alone(tmp_path: Path) -> None:
    assert storage.mirror(str(tmp_path)) == tmp_path
    assert storage.here(tmp_path) == tmp_path
    assert storage.uri_of(tmp_path) == str(tmp_path)
    storage.put(tmp_path)
    assert not storage.fetch(tmp_path / "nothing")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a/b",
        "gs://bucket",
        "file:///data/x",
        "hdfs://host:8020/a",
        "abfs://container@account.dfs.core.windows.net/a",
        "s3://bucket/a?endpoint_override=localhost:9000&scheme=http",
    ],
)
def test_a_mirror_says_where_it_comes_from(uri: str, elsewhere: Any) -> None:
    path = storage.mirror(uri)
    assert mirrors.MARK in path.parts
    assert storage.uri_of(path) == uri
    elsewhere()
    assert storage.here(path) == storage.mirror(uri) != path


def test_what_is_published_is_found_on_another_machine(
    root: Path, remote: Path, elsewhere: Any
) -> None:
    made(root)
    point(root, read(root / "dataset" / "v1"))
    assert (remote / "dataset" / "v1" / "events" / "part.bin").read_text() == "rows"
    elsewhere()
    found = current(root, "dataset")
    assert found.path == storage.here(root) / "dataset" / "v1"
    assert found.path != root / "dataset" / "v1"
    assert (found.path / "events" / "part.bin").read_text() == "rows"
    found.verify()


def test_what_is_not_finished_is_not_found(root: Path, remote: Path, elsewhere: Any) -> None:
    with pytest.raises(FileNotFoundError), publish(root, "dataset", "v1", parents=[]) as draft:
        (draft.path / "nowhere" / "half").write_text("half")
    assert not (remote / "dataset").exists()
    (remote / "dataset" / "v1").mkdir(parents=True)
    (remote / "dataset" / "v1" / "half").write_text("half")
    elsewhere()
    assert find(root, "dataset", "v1") is None
    assert not has_current(root, "dataset")
    with pytest.raises(UserError, match=r"file:///.*/remote has no dataset yet"):
        current(root, "dataset")
    with pytest.raises(UserError, match="has not finished"):
        read(root / "dataset" / "v1")


def test_a_pointer_is_followed_at_once(root: Path, elsewhere: Any) -> None:
    made(root, "v1")
    made(root, "v2")
    point(root, read(root / "dataset" / "v1"))
    mine = root
    elsewhere()
    assert current(mine, "dataset").version == "v1"
    other = storage.here(root)
    point(other, read(other / "dataset" / "v2"))
    assert current(mine, "dataset").version == "v2"


def test_what_lies_half_fetched_is_fetched_again(root: Path, elsewhere: Any) -> None:
    made(root)
    elsewhere()
    half = storage.here(root) / "dataset" / "v1" / "events"
    half.mkdir(parents=True)
    (half / "part.bin").write_text("ro")
    found = find(root, "dataset", "v1")
    assert found is not None
    found.verify()


def test_a_folder_is_brought_up_to_date(root: Path, remote: Path) -> None:
    (remote / "requests" / "hour=1").mkdir(parents=True)
    for name in ("a", "b"):
        (remote / "requests" / "hour=1" / name).write_text(name)
    (root / "requests" / "hour=1").mkdir(parents=True)
    (root / "requests" / "hour=1" / "a").write_text("mine")
    storage.update(root / "requests")
    found = {f.name: f.read_text() for f in (root / "requests" / "hour=1").iterdir()}
    assert found == {"a": "mine", "b": "b"}
    storage.update(root / "nothing")


def test_names_are_those_here_and_those_there(root: Path, remote: Path) -> None:
    (remote / "log" / "hour=1").mkdir(parents=True)
    (root / "log" / "hour=2" / "below").mkdir(parents=True)
    assert storage.names(root / "log") == {"hour=1", "hour=2"}
    assert storage.names(remote / "log") == {"hour=1"}
    assert storage.names(root / "nothing") == storage.names(remote / "nothing") == frozenset()


def test_what_is_gone_there_goes_here(root: Path, remote: Path) -> None:
    root.mkdir(parents=True)
    (root / "utility.json").write_text("{}")
    storage.put(root / "utility.json")
    (remote / "utility.json").unlink()
    assert storage.fetch(root / "utility.json")
    assert not storage.fetch(root / "utility.json", fresh=True)
    storage.remove(root / "utility.json")


def test_what_changes_here_or_there_is_seen_whatever_the_clocks(root: Path, remote: Path) -> None:
    def seen() -> frozenset[tuple[str, int]]:
        return storage.changes(root / "checkpoints", "curve")

    def write(folder: Path, name: str, seconds: float) -> None:
        file = folder / "checkpoints" / "a" / "choose" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        os.utime(file, (seconds, seconds))

    found = [seen()]
    for folder, name, seconds in (
        (root, "curve", 2000.0),
        (remote, "curve", 1000.0),
        (remote, "curve", 1500.0),
        (root, "curve", 2001.0),
    ):
        write(folder, name, seconds)
        found.append(seen())
        assert found[-1] - found[-2]
    write(remote, "other", 9000.0)
    assert seen() == found[-1]
    assert len(storage.changes(remote / "checkpoints", "curve")) == 1


def test_texts_are_those_where_a_folder_comes_from(root: Path, remote: Path) -> None:
    assert storage.texts(root / "notes") == {}
    for folder, text in ((root, "mine"), (remote, "theirs")):
        (folder / "notes").mkdir(parents=True)
        (folder / "notes" / "a").write_text(text)
    found = storage.texts(root / "notes")
    assert found == {"a": ((remote / "notes" / "a").stat().st_mtime_ns, "theirs")}
    assert (root / "notes" / "a").read_text() == "mine"
    assert storage.texts(remote / "notes") == {}


def test_removing_removes_both(root: Path, remote: Path) -> None:
    made(root)
    storage.remove(root / "dataset")
    assert not (remote / "dataset").exists()
    assert not (root / "dataset").exists()


def test_tables_may_lie_behind_a_uri(root: Path, remote: Path) -> None:
    for name in ("a.parquet", "b.parquet", "c.txt"):
        (remote / name).write_text(name)
    times = {file.name: file.stat().st_mtime_ns for file in remote.iterdir()}
    found = expand(f"file://{remote}/*.parquet", "source.events")
    assert found == (root / "a.parquet", root / "b.parquet")
    assert found[0].stat().st_mtime_ns == times["a.parquet"]
    assert expand(f"file://{remote}/a.parquet", "source.events") == found[:1]
    with pytest.raises(UserError, match=r"source\.events=.*does not exist"):
        expand(f"file://{remote}/*.csv", "source.events")


def test_a_log_behind_a_uri_is_read_as_it_is_there_now(root: Path, remote: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (remote / name).write_text("old")
    everything = f"file://{remote}/*.csv"
    expand(everything, "source.events")
    (remote / "a.csv").write_text("newer")
    (remote / "b.csv").unlink()
    (remote / "c.csv").write_text("new")
    found = expand(everything, "source.events")
    assert {file.name: file.read_text() for file in found} == {"a.csv": "newer", "c.csv": "new"}
    (remote / "a.csv").write_text("newest")
    assert expand(f"file://{remote}/a.csv", "source.events")[0].read_text() == "newest"
    (remote / "c.csv").unlink()
    assert [file.name for file in expand(f"file://{remote}", "source.events")] == ["a.csv"]
    assert (root / "a.csv").read_text() == "newest"
    (remote / "a.csv").unlink()
    with pytest.raises(UserError, match="does not exist"):
        expand(f"file://{remote}/a.csv", "source.events")


def test_a_log_that_has_not_changed_is_not_fetched_again(
    root: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (remote / "a.csv").write_text("rows")
    expand(f"file://{remote}/*.csv", "source.events")
    monkeypatch.setattr(storage, "_copied_here", None)
    assert expand(f"file://{remote}/*.csv", "source.events") == (root / "a.csv",)
    assert expand(f"file://{remote}/a.csv", "source.events") == (root / "a.csv",)


def test_a_storage_that_fails_is_tried_again_and_then_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 2
    copied = storage._copied_there

    def failing(*words: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError("503 slow down")
        copied(*words)

    monkeypatch.setattr(storage, "TRIES", (0.0, 0.0))
    monkeypatch.setattr(storage, "_copied_there", failing)
    made(root)
    left = 100
    with pytest.raises(StorageError, match=r"file:///.*cannot be written: 503 slow down.*run"):
        made(root, "v2")
    assert not storage.exists(root / "dataset" / "v2" / "manifest.json")


def test_of_a_folder_only_what_failed_is_read_again(
    root: Path, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(root)
    elsewhere()
    asked, read = [], storage._read

    def failing(system: Any, info: Any, file: Path) -> None:
        asked.append(info.path)
        if asked.count(info.path) == 1:
            raise OSError("503 slow down")
        read(system, info, file)

    monkeypatch.setattr(storage, "TRIES", (0.0,))
    monkeypatch.setattr(storage, "_read", failing)
    found = find(root, "dataset", "v1")
    assert found is not None
    found.verify()
    assert {asked.count(path) for path in asked} == {2}
    assert len(set(asked)) > 1


def test_a_server_is_not_kept_waiting_by_a_storage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def failing(*_: Any) -> None:
        asked.append(1)
        raise OSError("503 slow down")

    monkeypatch.setattr(storage, "TRIES", (0.0,) * 5)
    monkeypatch.setattr(storage, "_copied_there", failing)
    with storage.briefly(), pytest.raises(StorageError):
        made(root)
    assert len(asked) == 2
    with pytest.raises(StorageError):
        made(root)
    assert len(asked) == 2 + 6


def test_texts_are_read_again_where_that_failed_and_left_out_where_they_are_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = root / "replicas"
    notes.mkdir(parents=True)
    for name in ("a", "b"):
        (notes / name).write_text(name)
        storage.put(notes / name)
    read, failures = storage._text, [OSError("connection reset")]

    def failing(system: Any, place: str) -> str | None:
        if failures:
            raise failures.pop()
        storage.remove(notes / "b")
        return read(system, place)

    monkeypatch.setattr(storage, "TRIES", (0.0,))
    monkeypatch.setattr(storage, "_text", failing)
    assert {name: text for name, (_, text) in storage.texts(notes).items()} == {"a": "a"}


def test_what_is_refused_for_good_is_asked_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refusing(*_: Any) -> None:
        asked.append(1)
        raise OSError("When initiating upload: AWS Error ACCESS_DENIED during PutObject")

    monkeypatch.setattr(storage, "TRIES", (60.0,))
    monkeypatch.setattr(storage, "_copied_there", refusing)
    with pytest.raises(StorageError, match=r"ACCESS_DENIED.*mend its access, and run the same"):
        made(root)
    assert len(asked) == 1


def test_what_a_mirror_alone_has_is_not_there(root: Path, remote: Path, elsewhere: Any) -> None:
    made(root)
    shutil.rmtree(remote / "dataset")  # who owns the bucket has emptied it
    assert find(root, "dataset", "v1") is None
    made(root)
    elsewhere()
    assert find(root, "dataset", "v1") is not None


def test_what_an_artefact_was_made_from_goes_everywhere(root: Path, remote: Path) -> None:
    pieces = root / "checkpoints" / "dataset-v1"
    pieces.mkdir(parents=True)
    (pieces / "a").write_text("rows")
    storage.put(pieces)
    with publish(root, "dataset", "v1") as draft:
        draft.scratch.append(pieces)
    assert not pieces.exists()
    assert not (remote / "checkpoints" / "dataset-v1").exists()


def interrupted(root: Path) -> None:
    with publish(root, "dataset", "v1") as draft:
        (draft.path / "part-of-another-size").write_text("rows")
        storage.put(draft.path)
        raise KeyboardInterrupt


def test_what_an_interrupted_run_has_put_is_no_part_of_the_next(root: Path, elsewhere: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(root)
    made(root)
    elsewhere()
    found = find(root, "dataset", "v1")
    assert found is not None
    files = {f.relative_to(found.path).as_posix() for f in found.path.rglob("*") if f.is_file()}
    assert files == {*found.manifest.checksums, "manifest.json"}


class Faulty(fs.FSSpecHandler):
    """A storage of which some of the calls fail, counted from the first."""

    def __init__(self, failing: set[int]) -> None:
        super().__init__(fsspec.filesystem("file", auto_mkdir=True))
        self.failing, self.calls = failing, 0

    def _may_fail(self) -> None:
        self.calls += 1
        if self.calls - 1 in self.failing:
            raise OSError("connection reset")

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self._may_fail()
        return super().get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self._may_fail()
        return super().get_file_info_selector(selector)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self._may_fail()
        return super().open_output_stream(path, metadata)

    def open_input_stream(self, path: str) -> Any:
        self._may_fail()
        return super().open_input_stream(path)

    def delete_dir(self, path: str) -> None:
        self._may_fail()
        super().delete_dir(path)


def test_libraries_are_told_where_a_path_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage.place_of(tmp_path) == (None, str(tmp_path))
    system, place = storage.place_of(storage.mirror("file:///srv/root") / "two_tower")
    assert (system.type_name, place) == ("local", "/srv/root/two_tower")
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    system, place = storage.place_of(storage.mirror("shelf://company/root") / "two_tower")
    assert isinstance(system.handler.fs, Shelf)
    assert place == "company/root/two_tower"


class Shelf(AbstractFileSystem):
    """A storage that pyarrow does not know."""

    protocol = "shelf"


@pytest.mark.parametrize(
    ("root", "kind", "place"),
    [
        ("gs://homefeed-mirror/root", "gcs", "homefeed-mirror/root/a"),
        ("abfs://box@account.dfs.core.windows.net/root", "abfs", "box/root/a"),
        ("abfss://box@account.dfs.core.windows.net", "abfs", "box/a"),
        ("abfs://account.dfs.core.windows.net/box/root", "abfs", "box/root/a"),
        ("s3://bucket/root?endpoint_override=h:9&region=here", "s3", "bucket/root/a"),
        ("s3://bucket/my root?endpoint_override=http://h:9&region=here", "s3", "bucket/my root/a"),
        ("s3://a-key:a-secret@bucket/root?region=here", "s3", "bucket/root/a"),
        ("memory://shop/root", "py::fsspec+memory", "/shop/root/a"),
    ],
)
def test_where_a_host_has_its_paths_is_left_to_the_library(
    root: str, kind: str, place: str
) -> None:
    mirrored = storage.mirror(root)
    system, found = storage.place_of(mirrored / "a")
    assert (system.type_name, found) == (kind, place)
    assert storage.place_of(mirrored)[1] == place.removesuffix("/a")


def test_options_of_a_uri_reach_its_storage() -> None:
    for options in ("localhost:9000&scheme=http", "http://localhost:9000&region=here"):
        uri = f"s3://bucket/root?endpoint_override={options}"
        system, _ = storage.place_of(storage.mirror(uri))
        found = system.__reduce__()[1][0]
        assert found["endpoint_override"] == options.partition("&")[0]


def test_tables_may_lie_behind_a_uri_with_options(
    root: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_uri(uri: str) -> tuple[Any, str]:
        assert uri == f"s3://shop/{PROBE}?endpoint_override=http:%2F%2Fh:9"
        return fs.LocalFileSystem(), f"{remote}/{PROBE}"

    for name in ("a.csv", "b.csv", "c.parquet"):
        (remote / name).write_text(name)
    monkeypatch.setattr(fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    found = expand("s3://shop/*.csv?endpoint_override=http://h:9", "source.events")
    assert [file.read_text() for file in found] == ["a.csv", "b.csv"]
    one = "s3://shop/a.csv?endpoint_override=http://h:9"
    assert expand(one, "source.events") == found[:1]
    assert storage.uri_of(found[0]) == one.replace("//h", "%2F%2Fh")


def test_credentials_in_a_uri_open_it_and_are_not_shown(
    remote: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def at(scheme: str, host: str) -> tuple[Any, str]:
        opened.append(host)
        return fs.LocalFileSystem(), f"{remote}/"

    monkeypatch.setattr(filesystems, "opened", at)
    (remote / "blocked.txt").write_text("7")
    path = storage.brought("s3://KEY:hunter2@shop/", "blocked.txt")
    assert path.read_text() == "7"
    assert storage.uri_of(path) == "s3://KEY@shop/blocked.txt"
    assert set(opened) == {"KEY:hunter2@shop"}


def test_a_name_node_has_no_place_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_uri(uri: str) -> tuple[Any, str]:
        assert uri.startswith("hdfs://names:8020/")
        return fs.LocalFileSystem(), uri.removeprefix("hdfs://names:8020")

    monkeypatch.setattr(fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    uri = f"hdfs://names:8020{tmp_path}/remote"
    root = storage.mirror(uri)
    storage.check(uri)
    made(root)
    assert (tmp_path / "remote" / "dataset" / "v1" / "manifest.json").is_file()
    assert storage.uri_of(root) == uri


def test_a_word_may_be_a_path_or_a_uri(root: Path, remote: Path) -> None:
    (remote / "blocked.txt").write_text("7")
    (remote / "more.txt").write_text("8")
    assert storage.brought(str(remote), "blocked.txt") == remote / "blocked.txt"
    assert storage.brought(f"file://{remote}/", "blocked.txt").read_text() == "7"
    assert [file.name for file in root.iterdir()] == ["blocked.txt"]
    (remote / "blocked.txt").write_text("70")
    assert storage.brought(f"file://{remote}/blocked.txt").read_text() == "70"
    (remote / "blocked.txt").unlink()
    assert not storage.brought(f"file://{remote}/blocked.txt").exists()


def found_elsewhere(root: Path, machine: Path) -> bool:
    """Whether another machine, whose storage does not fail, sees the artefact; whole, then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE, str(machine))
        artifact = find(root, "dataset", "v1")
        if artifact is not None:
            artifact.verify()
    return artifact is not None


@given(st.sets(st.integers(0, 30)), st.integers(0, 2))
def test_whatever_fails_an_artefact_is_whole_or_not_there(failing: set[int], tries: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE, f"{name}/here")
        patch.setattr(storage, "TRIES", (0.0,) * tries)
        Path(name, "remote").mkdir()
        root = storage.mirror(f"file://{name}/remote")
        faulty = Faulty(failing)
        with pytest.MonkeyPatch.context() as shaky:
            shaky.setattr(filesystems, "opened", lambda *_: (fs.PyFileSystem(faulty), "/"))
            published = False
            with suppress(StorageError):
                made(root)
                published = True
        # What failed last may have been a question after the manifest had been put.
        assert found_elsewhere(root, Path(name, "other")) or not published
        if find(root, "dataset", "v1") is None:  # as a job does that is run again
            made(root)
        assert found_elsewhere(root, Path(name, "third"))


@given(st.sets(st.integers(0, 20)))
def test_whatever_fails_what_is_fetched_is_whole(failing: set[int]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE, f"{name}/here")
        patch.setattr(storage, "TRIES", ())
        Path(name, "remote").mkdir()
        root = storage.mirror(f"file://{name}/remote")
        made(root)
        patch.setenv(PLACE, f"{name}/other")
        with pytest.MonkeyPatch.context() as shaky:
            faulty = Faulty(failing)
            shaky.setattr(filesystems, "opened", lambda *_: (fs.PyFileSystem(faulty), "/"))
            with suppress(StorageError):
                find(root, "dataset", "v1")
        found = find(root, "dataset", "v1")
        assert found is not None
        found.verify()


def test_a_text_is_read_as_it_is_there(root: Path, remote: Path, tmp_path: Path) -> None:
    for folder in (root, tmp_path / "local"):
        assert storage.text(folder / "note") is None
    (root / "note").parent.mkdir(parents=True, exist_ok=True)
    (root / "note").write_text("here alone")
    assert storage.text(root / "note") is None
    (remote / "note").write_text("there")
    assert storage.text(root / "note") == "there"
    assert (root / "note").read_text() == "here alone"
    (tmp_path / "note").write_text("local")
    assert storage.text(tmp_path / "note") == "local"


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(StorageError, match="nosuch://"):
        storage.check("nosuch://bucket/root")
