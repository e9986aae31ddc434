"""Which store a root has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve.lmdb_store import FOLDER, LmdbStore

if TYPE_CHECKING:
    from pathlib import Path

    from serve.settings import ServeSettings
    from serve.store import Store


def open_store(root: Path, settings: ServeSettings) -> Store:
    """The store that `serve.store` names.

    Raises:
        UserError: no Redis server answers there, or another machine has the local store open.
    """
    if settings.store == "local":
        return LmdbStore(root / FOLDER, settings.max_actions, settings.store_gib)
    from serve.redis_store import RedisStore

    read_s = settings.deadline_s("store")
    return RedisStore(settings.store, settings.max_actions, read_s=read_s)
