"""Collectives of ranks go over the network by which their nodes know each other.

Gloo takes the interface that a host's own name leads to, and many a host's name leads to its
loopback: then ranks of two nodes never meet. Ray Train's controller imports this module: it imports
little.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"


class GroupConfig(TorchConfig):
    """Ray Train's, whose ranks first choose their interface."""

    @property
    def backend_cls(self) -> Any:
        """Ray Train's backend, with that step before its own."""
        return _Backend


_TorchBackend: Any = TorchConfig().backend_cls


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Names the interface of this node's address to Gloo, unless it was named or there is none."""
    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault(INTERFACE, name)


def interface_of(address: str) -> str | None:
    """The network interface that has an address; of the loopback's others there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if address in (one.address for one in addresses):
            return str(name)
    return None
