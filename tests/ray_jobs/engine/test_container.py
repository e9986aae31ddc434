from pathlib import Path

import pytest

from ray_jobs.engine import cluster, container


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a container would find its limits."""
    monkeypatch.setattr(container, "GROUP", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "cores"),
    [("400000 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", None)],
)
def test_a_share_of_time_is_so_many_cores(group: Path, written: str, cores: int | None) -> None:
    (group / "cpu.max").write_text(written + "\n")
    assert container.cores() == cores


def test_without_a_limit_there_is_the_machine(group: Path) -> None:
    assert container.cores() is None
    assert container.free_memory() > 0


def test_a_process_counts_the_cores_of_its_container(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_kept_to", 0)
    monkeypatch.setattr(cluster, "_all_cores", lambda: 64)
    assert cluster.num_cores() == 64
    (group / "cpu.max").write_text("400000 100000\n")
    assert cluster.num_cores() == 4


def test_memory_is_what_the_container_leaves(group: Path) -> None:
    (group / "memory.max").write_text("1000\n")
    (group / "memory.current").write_text("400\n")
    assert container.free_memory() == 600
