from pathlib import Path

import pytest

from data.world import WorldSettings, generate
from tests.data import rows


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny world's 60 days: `raw/` tables, hidden `latents/`."""
    folder = tmp_path_factory.mktemp("world")
    generate(WorldSettings(preset="tiny"), folder / "raw", folder / "latents", range(1, 61))
    return folder


@pytest.fixture(scope="session")
def log_of():
    """Makes a small log; see `tests.data.rows`."""
    return rows.log_of
