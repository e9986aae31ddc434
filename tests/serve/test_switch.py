import gc
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from data.contract import filesystems, mirrors, storage
from data.contract.settings import UserError
from data.contract.storage import StorageError
from serve.app import FeedReplica
from serve.feed import Feed
from serve.mirrored_bundles import wanted
from serve.replicas import Replicas
from serve.retry import Retry
from serve.settings import ServeSettings

Publish = Callable[..., Path]


def corrupt(bundle: Path) -> None:
    file = bundle / "item_embeddings.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@contextmanager
def replica(root: Path) -> Iterator[FeedReplica]:
    made = FeedReplica(str(root), {})
    try:
        yield made
    finally:
        made._feed.close()


@pytest.mark.parametrize("sound", [True, False])
def test_what_is_pinned_is_the_first_that_a_replica_serves(
    root: Path, publish_bundle: Publish, sound: bool
) -> None:
    publish_bundle(root, "v2")
    if not sound:
        corrupt(root / "bundles" / "v2")
    with replica(root) as made:
        made.reconfigure({"bundle": "v1"})
        assert made._feed.models()["bundle"] == "v1"
        assert made._feed.readiness()["degraded"] == {}


@pytest.mark.parametrize("told", [True, False])
def test_a_replica_without_a_pin_serves_current_before_it_is_ready(root: Path, told: bool) -> None:
    with replica(root) as made:
        if told:
            made.reconfigure({})
        made.check_health()
        assert made._feed.models()["bundle"] == "v1"


def test_a_replica_with_nothing_to_serve_does_not_start(root: Path) -> None:
    corrupt(root / "bundles" / "v1")
    with replica(root) as made:
        with pytest.raises(UserError, match=r"item_embeddings.* does not match"):
            made.reconfigure({})
        with pytest.raises(UserError, match=r"item_embeddings.* does not match"):
            made.check_health()
        with pytest.raises(UserError, match=r"no bundle v9; nor CURRENT: .*item_embeddings"):
            made.reconfigure({"bundle": "v9"})


def test_a_replica_whose_pin_cannot_serve_serves_current_and_tells(
    root: Path, publish_bundle: Publish
) -> None:
    publish_bundle(root, "v2")
    corrupt(root / "bundles" / "v1")
    with replica(root) as made:
        made.reconfigure({"bundle": "v1"})
        feed = made._feed
        assert feed.models()["bundle"] == "v2"
        assert feed.models()["refused"]["version"] == "v1"
        feed.tick()
        assert feed.models()["bundle"] == "v2"
        assert b"homefeed_bundle_refused 1.0" in feed.metrics.text()
        publish_bundle(root, "v1")
        feed.tick()
        assert feed.models()["bundle"] == "v1"


@pytest.fixture
def bucket(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root as it lies in a storage; served is a mirror of it."""
    monkeypatch.setenv(mirrors.PLACE, str(tmp_path / "here"))
    return root


@pytest.fixture
def away(bucket: Path, settings: ServeSettings) -> Iterator[Feed]:
    """A feed over the mirror."""
    opened = Feed(storage.mirror(f"file://{bucket}"), settings, background=False)
    yield opened
    opened.close()


def test_a_bundle_published_again_in_a_storage_is_fetched_again(
    bucket: Path,
    away: Feed,
    publish_bundle: Publish,
    edit_manifest: Callable[[Path, dict[str, Any]], None],
) -> None:
    publish_bundle(bucket, "v2")
    corrupt(bucket / "bundles" / "v2")
    away.tick()
    assert away.models()["refused"]["version"] == "v2"
    away.tick()
    assert away.models()["bundle"] == "v1"
    publish_bundle(bucket, "v2")
    edit_manifest(bucket / "bundles" / "v2", {"created": "2026-01-12T00:00:00+00:00"})
    away.tick()
    assert away.models()["bundle"] == "v2"
    assert away.models()["refused"] is None


def test_a_bundle_that_is_here_is_not_fetched_again(
    bucket: Path, away: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Path] = []
    monkeypatch.setattr(storage, "fetch", lambda path, fresh=False: fetched.append(path))
    away._switch.follow()
    away._switch.follow()
    assert fetched == []


def test_a_storage_that_is_away_refuses_no_bundle(
    bucket: Path, away: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise StorageError(f"{path} cannot be read")

    monkeypatch.setattr(storage, "text", refuse)
    away.tick()
    assert away.models()["refused"] is None
    assert "cannot be read" in away.readiness()["degraded"]["following the bundle"]
    assert b"homefeed_bundle_refused 0.0" in away.metrics.text()
    monkeypatch.undo()
    away.tick()
    assert away.readiness()["degraded"] == {}


def test_a_bundle_that_only_the_mirror_has_is_refused(bucket: Path, away: Feed) -> None:
    away.pin("v1")
    shutil.rmtree(bucket / "bundles" / "v1")
    away.tick()
    assert f"file://{bucket}/bundles has no bundle v1" in away.models()["refused"]["reason"]


def test_a_pointer_that_was_gone_is_followed_when_it_is_back(feed: Feed, root: Path) -> None:
    pointer = root / "bundles" / "CURRENT"
    named = pointer.read_text()
    pointer.unlink()
    assert not feed._switch.follow()
    assert feed._switch.refused is not None
    assert not feed._switch.is_current
    pointer.write_text(named)
    feed._switch.follow()
    assert feed._switch.refused is None
    assert feed._switch.is_current


@pytest.mark.parametrize(
    ("pinned", "said"), [("v9", "has no bundle v9"), ("", "run the pipeline first")]
)
def test_a_version_that_is_not_there_is_named(
    feed: Feed, root: Path, pinned: str, said: str
) -> None:
    feed._switch.pin(pinned)
    (root / "bundles" / "CURRENT").unlink()
    feed._switch.follow()
    assert feed._switch.refused is not None
    assert said in feed._switch.refused.reason


def test_credentials_of_a_storage_are_told_to_nobody(
    bucket: Path,
    publish_bundle: Publish,
    settings: ServeSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    at = (fs.LocalFileSystem(), f"{bucket.parent}/")
    monkeypatch.setattr(filesystems, "opened", lambda scheme, host: at)
    root = storage.mirror("s3://KEY:hunter2@bucket/root")
    feed = Feed(root, settings, background=False)
    publish_bundle(bucket, "v2")
    corrupt(bucket / "bundles" / "v2")
    (bucket / "utility.json").write_text("no JSON")
    feed.tick()
    told = feed.models() | feed.readiness()
    feed.close()
    assert told["root"] == "s3://KEY@bucket/root"
    assert "s3://KEY@bucket/root/bundles/v2" in told["refused"]["reason"]
    assert "hunter2" not in f"{told} {caplog.text}"


def left_alone(bundles: Path) -> list[str]:
    """Lets hours go by; what lies in the mirror."""
    for one in bundles.iterdir():
        if one.is_dir():
            os.utime(one, (0, 0))
    return sorted(one.name for one in bundles.iterdir() if one.is_dir())


def test_a_mirror_holds_the_bundles_that_are_served_or_pointed_to(
    bucket: Path, away: Feed, publish_bundle: Publish
) -> None:
    bundles = storage.mirror(f"file://{bucket}") / "bundles"
    other = Replicas(bundles.parent)
    other.note({"versions": {"bundle": "v1"}})
    for version in ("v2", "v3"):
        publish_bundle(bucket, version)
        away.tick()
    assert left_alone(bundles) == ["v1", "v2", "v3"]
    (bundles / "v4").mkdir()  # a job makes it
    away.tick()
    assert left_alone(bundles) == ["v1", "v3", "v4"]
    other.note({"versions": {"bundle": "v3"}})
    away.pin("v2")
    away.tick()
    assert away.models()["bundle"] == "v2"
    assert left_alone(bundles) == ["v2", "v3", "v4"]
    other.close()
    away.tick()
    assert left_alone(bundles) == ["v2", "v3", "v4"], "v3 is current"


def test_a_bundle_that_is_about_to_be_opened_stays_in_the_mirror(
    bucket: Path, away: Feed, publish_bundle: Publish
) -> None:
    bundles = storage.mirror(f"file://{bucket}") / "bundles"
    publish_bundle(bucket, "v2")
    away.tick()
    assert left_alone(bundles) == ["v1", "v2"]
    wanted(bundles / "v1")
    away.tick()
    assert (bundles / "v1").is_dir()
    assert left_alone(bundles) == ["v1", "v2"]
    away.tick()
    assert left_alone(bundles) == ["v2"]
    assert sorted(one.name for one in (bucket / "bundles").glob("v*")) == ["v1", "v2"]


def test_a_root_that_is_no_mirror_keeps_its_bundles(
    root: Path, feed: Feed, publish_bundle: Publish
) -> None:
    publish_bundle(root, "v2")
    feed.tick()
    left_alone(root / "bundles")
    feed.tick()
    assert left_alone(root / "bundles") == ["v1", "v2"]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (MemoryError(), True),
        (OSError(28, "No space left on device"), True),
        (StorageError("it does not answer"), True),
        (UserError("it lacks everything"), False),
    ],
)
def test_what_fails_for_a_passing_reason_is_tried_again(
    feed: Feed,
    root: Path,
    publish_bundle: Publish,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    again: bool,
) -> None:
    tries: list[str] = []

    def failing(version: str) -> Any:
        tries.append(version)
        raise error

    now_s = 0.0
    feed._switch._retry = Retry(lambda: now_s)
    publish_bundle(root, "v2")
    with monkeypatch.context() as patched:
        patched.setattr(feed._switch, "load", failing)
        for later_s in (0.0, 1.0, 3.0, 4.0, 8.0):
            now_s = later_s
            feed.tick()
    assert tries == ["v2"] * (3 if again else 1)
    assert feed.models()["refused"]["version"] == "v2"
    now_s = 1e9
    feed.tick()
    assert feed.models()["bundle"] == ("v2" if again else "v1")
    assert (feed.models()["refused"] is None) is again


def test_a_bundle_that_served_is_let_go_of(
    root: Path, settings: ServeSettings, publish_bundle: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ranker that ranks requests together, as on a GPU, stays until garbage is looked for."""
    monkeypatch.setattr(ServeSettings, "ranks_on_gpu", True)
    feed = Feed(root, settings, background=False)
    feed.tick()
    before = weakref.ref(feed._switch.funnel.ranker)
    publish_bundle(root, "v2")
    gc.disable()
    try:
        feed.tick()
        assert before() is not None
        feed.tick()
        assert before() is None
    finally:
        gc.enable()
        feed.close()
