from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import run, words_of


@pytest.fixture(scope="session")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A root after `make run` on the tiny world, and the run's last line."""
    root = tmp_path_factory.mktemp("e2e") / "root"
    return root, run("pipeline", *words_of(root))
