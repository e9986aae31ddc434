import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.e2e.processes import run, words_of


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What `first_day` is a copy of: made once, also where tests run in several processes."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "first_day"
    root, done = folder / "root", folder / "done.json"
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            done.write_text(json.dumps(run("pipeline", *words_of(root))))
    return root, json.loads(done.read_text())


@pytest.fixture(scope="module")
def first_day(
    made_once: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A root after `make run` on the tiny world, and the run's last line."""
    made, summary = made_once
    root = tmp_path_factory.mktemp("e2e") / "root"
    shutil.copytree(made, root)
    return root, summary
