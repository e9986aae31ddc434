"""Collectives of ranks: over which network they go, and how long they are waited for.

Ranks meet over the network by which their nodes know each other. Gloo takes the interface that a
host's own name leads to, and many a host's name leads to its loopback: then ranks of two nodes
never meet. They meet within Ray Train's half an hour; from then on they wait for `LONGEST_WAIT`,
for rank 0 validates and stores while the others wait, and that a rank has died is seen by its
sockets and by Ray. Ray Train's controller imports this module: it imports little.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import psutil
import ray.util
import torch.distributed.distributed_c10d as c10d
from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"
LONGEST_WAIT = timedelta(days=1)


class GroupConfig(TorchConfig):
    """Ray Train's, whose ranks choose their interface before they meet, and wait long after."""

    @property
    def backend_cls(self) -> Any:
        """Ray Train's backend, with those steps around its own."""
        return _Backend


_TorchBackend: Any = TorchConfig().backend_cls


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)
        worker_group.execute(wait_long)


def choose_interface() -> None:
    """Names the interface of this node's address to Gloo, unless it was named or there is none."""
    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault(INTERFACE, name)


def wait_long() -> None:
    """Lets this rank wait for the others for `LONGEST_WAIT`."""
    c10d._set_pg_timeout(LONGEST_WAIT)


def interface_of(address: str) -> str | None:
    """The network interface that has an address; of the loopback's others there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if address in (one.address for one in addresses):
            return str(name)
    return None
