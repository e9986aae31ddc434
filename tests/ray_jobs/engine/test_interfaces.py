import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import ray.util
import torch
import torch.distributed as dist

from ray_jobs.engine import interfaces, ranks
from ray_jobs.engine.interfaces import (
    INTERFACE,
    LONGEST_WAIT,
    GroupConfig,
    choose_interface,
    interface_of,
    wait_long,
)


def test_an_address_leads_to_its_interface() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("127.0.0.9") is None


@pytest.mark.parametrize(
    ("named", "address", "found"),
    [(None, "127.0.0.1", "lo"), ("eth1", "127.0.0.1", "eth1"), (None, "127.0.0.9", None)],
)
def test_collectives_take_the_interface_of_the_nodes_address_unless_told(
    monkeypatch: pytest.MonkeyPatch, named: str | None, address: str, found: str | None
) -> None:
    monkeypatch.delenv(INTERFACE, raising=False)
    if named is not None:
        monkeypatch.setenv(INTERFACE, named)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    choose_interface()
    assert os.environ.get(INTERFACE) == found
    monkeypatch.delenv(INTERFACE, raising=False)


def test_ranks_choose_before_they_join() -> None:
    done: list[object] = []

    class Group:
        def execute(self, step: object) -> None:
            done.append(step)
            raise KeyboardInterrupt

    config = GroupConfig("gloo")
    assert config.backend_cls is interfaces._Backend
    with pytest.raises(KeyboardInterrupt):
        config.backend_cls().on_start(Group(), config)
    assert done == [choose_interface]


def meet(rank: int, folder: Path) -> None:
    """One of two ranks that may meet within two seconds, and of which rank 0 takes its time."""
    (folder / f"there-{rank}").touch()
    while not (folder / f"there-{1 - rank}").exists():
        time.sleep(0.01)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=2)
    )
    wait_long()
    if rank == 0:
        time.sleep(4)
    metrics = ranks.from_first({"auc": 0.5} if rank == 0 else {})
    ranks.barrier()
    (folder / f"told-{rank}").write_text(str(metrics))
    dist.destroy_process_group()


def test_ranks_wait_for_what_the_first_does_alone_longer_than_they_may_take_to_meet(
    tmp_path: Path,
) -> None:
    torch.multiprocessing.spawn(meet, args=(tmp_path,), nprocs=2)
    assert (tmp_path / "told-1").read_text() == "{'auc': 0.5}"
    assert timedelta(hours=12) < LONGEST_WAIT


def test_ranks_of_a_training_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    class Group:
        def execute(self, step: object) -> None:
            done.append(step)

    monkeypatch.setattr(interfaces._TorchBackend, "on_start", lambda *_: done.append("met"))
    GroupConfig("gloo").backend_cls().on_start(Group(), GroupConfig("gloo"))
    assert done == [choose_interface, "met", wait_long]
