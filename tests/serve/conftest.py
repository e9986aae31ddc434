"""A tiny root of one's own for each test, and a feed over it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.feed import Feed
from serve.settings import ServeSettings
from tests.redis_server import is_installed, running_redis
from tests.tiny_root import TinyLog, write_bundle

Root = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_log() -> TinyLog:
    return TinyLog()


@pytest.fixture(scope="session")
def string_log() -> TinyLog:
    return TinyLog(string_ids=True)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_log: TinyLog) -> Path:
    return write_bundle(tmp_path_factory.mktemp("root"), "v1", tiny_log)


@pytest.fixture
def root(tmp_path: Path, published: Path) -> Path:
    """A root of one's own with bundle v1."""
    return Path(shutil.copytree(published, tmp_path / "root"))


@pytest.fixture
def publish_bundle(tiny_log: TinyLog) -> Root:
    """Publishes a further bundle into a root: `publish_bundle(root, "v2", ranker=False)`."""

    def publish(root: Path, version: str, **changes: Any) -> Path:
        return write_bundle(root, version, changes.pop("log", tiny_log), **changes)

    return publish


@pytest.fixture
def edit_manifest() -> Callable[[Path, dict[str, Any]], None]:
    """Overwrites fields of a bundle's manifest."""

    def edit(path: Path, fields: dict[str, Any]) -> None:
        document = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(document | fields))

    return edit


@pytest.fixture
def settings() -> ServeSettings:
    """No deadline that a busy machine could miss, and as few candidates as there are items."""
    return ServeSettings(
        candidates=100, budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}, clock="log"
    )


@pytest.fixture
def feed(root: Path, settings: ServeSettings) -> Iterator[Feed]:
    opened = Feed(root, settings, background=False)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of the session's own that writes before it answers."""
    if not is_installed():
        pytest.skip("needs redis-server (make servers)")
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url
