import os

import pytest
import ray.util

from ray_jobs.engine import interfaces
from ray_jobs.engine.interfaces import INTERFACE, GroupConfig, choose_interface, interface_of


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
