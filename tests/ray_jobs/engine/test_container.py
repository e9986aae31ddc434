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


GIB = 1 << 30
STAT = {"anon": 4 * GIB, "file": 27 * GIB, "shmem": GIB, "inactive_anon": 5 * GIB}


def write_stat(file: Path, counts: dict[str, int]) -> None:
    file.write_text("".join(f"{name} {count}\n" for name, count in counts.items()))


@pytest.fixture
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = container.psutil.virtual_memory()._replace(available=200 * GIB)
    monkeypatch.setattr(container.psutil, "virtual_memory", lambda: memory)


@pytest.mark.usefixtures("large_machine")
def test_pages_of_files_that_the_kernel_keeps_are_free(group: Path) -> None:
    (group / "memory.max").write_text(f"{32 * GIB}\n")
    (group / "memory.current").write_text(f"{31 * GIB + GIB // 2}\n")
    write_stat(group / "memory.stat", STAT | {"inactive_file": 20 * GIB, "active_file": 6 * GIB})
    assert container.free_memory() == 26 * GIB + GIB // 2


@pytest.mark.usefixtures("large_machine")
def test_they_are_in_version_1_of_control_groups_too(group: Path) -> None:
    (group / "memory").mkdir()
    (group / "memory" / "memory.limit_in_bytes").write_text(f"{32 * GIB}\n")
    (group / "memory" / "memory.usage_in_bytes").write_text(f"{31 * GIB}\n")
    totals = {"total_inactive_file": 20 * GIB, "total_active_file": 6 * GIB}
    write_stat(group / "memory" / "memory.stat", STAT | {"inactive_file": GIB} | totals)
    assert container.free_memory() == 27 * GIB


def test_no_more_memory_is_free_than_the_machine_has(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = container.psutil.virtual_memory()._replace(available=3 * GIB)
    monkeypatch.setattr(container.psutil, "virtual_memory", lambda: memory)
    (group / "memory.max").write_text(f"{32 * GIB}\n")
    (group / "memory.current").write_text(f"{31 * GIB}\n")
    write_stat(group / "memory.stat", {"inactive_file": 20 * GIB, "active_file": 6 * GIB})
    assert container.free_memory() == 3 * GIB
