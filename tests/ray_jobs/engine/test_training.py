"""What a training publishes, and what it leaves behind, where its ranks are on other machines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.contract import storage
from data.contract.artifact import find, publish
from data.contract.mirrors import PLACE
from ray_jobs.engine import training
from ray_jobs.engine.training import Sources, Training
from ray_jobs.engine.worker import best_file


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The driver's mirror of a bucket."""
    monkeypatch.setenv(PLACE, str(tmp_path / "driver"))
    (tmp_path / "remote").mkdir()
    return storage.mirror(f"file://{tmp_path}/remote")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publishes what ranks have left after step 4: `trained(root)`."""
    monkeypatch.setattr(training, "_phase", lambda _: {"best_step": 4})
    monkeypatch.setattr(training, "_describe", lambda *_: None)
    monkeypatch.setattr(
        Training,
        "_assignment",
        lambda _, folder: SimpleNamespace(folder=folder, phase="choose"),
    )

    def trained(root: Path) -> Path:
        settings = SimpleNamespace(split=SimpleNamespace(refit=False, kind="time"))
        job: Any = SimpleNamespace(root=root, settings=settings)
        sources: Any = Sources
        with publish(root, "ranker", "v1") as draft:
            Training(job, "ranker", sources, None, alone=False).fit(draft)
        artifact = find(root, "ranker", "v1")
        assert artifact is not None
        return artifact.path

    return trained


def test_weights_of_another_machine_are_published_not_an_earlier_attempts_here(
    root: Path, tmp_path: Path, trained: Any
) -> None:
    best = best_file(root / "checkpoints" / "ranker-v1" / "choose", 4)
    best.parent.mkdir(parents=True)
    best.write_text("earlier")
    later = tmp_path / "later"
    later.write_text("later")
    storage.put_as(later, best)
    assert (trained(root) / "model.safetensors").read_text() == "later"
