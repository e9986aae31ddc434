"""Connecting to Ray: the cluster that a submitted job runs on, or a private one on loopback."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from data.contract.settings import UserError
from ray_jobs.engine import container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
LOOPBACK = "127.0.0.2"  # Ray rewrites 127.0.0.1 to the network card's address
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone
T = TypeVar("T")


def connect(num_cpus: int = 0) -> None:
    """Joins the cluster in RAY_ADDRESS, else starts one on loopback; does nothing when connected.

    A cluster that `ray start` has left on this machine is not joined unless RAY_ADDRESS names it.

    Args:
        num_cpus: logical CPUs that the job needs at once. A local cluster offers at least two
            more than there are cores: Ray Data starves when training takes every CPU.

    Raises:
        UserError: RAY_ADDRESS names nothing that can be joined.
    """
    if ray.is_initialized():
        return
    with _same_ending():
        if is_private():
            _start_local(num_cpus)
        else:
            _join()


def _join() -> None:
    try:
        ray.init(logging_level=logging.WARNING)
    except (ValueError, ConnectionError) as error:
        address = os.environ["RAY_ADDRESS"]
        raise UserError(
            f"the cluster of RAY_ADDRESS={address} cannot be joined: {error}"
        ) from error


@contextmanager
def kept_handler(number: signal.Signals) -> Iterator[None]:
    """Puts back this process's own answer to a signal, whatever Ray has set in its place."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before)


def _same_ending() -> AbstractContextManager[None]:
    """Keeps how a job ends when it is told to: Ray would exit with the signal's number."""
    own = callable(signal.getsignal(signal.SIGTERM))
    return kept_handler(signal.SIGTERM) if own else nullcontext()


def is_private() -> bool:
    """Whether the cluster is this job's own, which gets no further nodes."""
    return not os.environ.get("RAY_ADDRESS")


def head_elsewhere() -> dict[str, Any] | None:
    """The cluster's head, as Ray lists its nodes; None where it is the node of this process."""
    if is_private():
        return None
    connect()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    head = next(node for node in nodes if HEAD in node["Resources"])
    return None if head["NodeID"] == _node_here() else head


def _node_here() -> str:
    node: str = ray.get_runtime_context().get_node_id()
    return node


def on_head(function: Callable[..., T], *words: Any) -> T:
    """What a function gives where Ray Serve's proxy listens, which may be on loopback alone."""
    head = head_elsewhere()
    if head is None:
        return function(*words)
    there = ray.remote(num_cpus=0, label_selector={"ray.io/node-id": head["NodeID"]})(function)
    found: T = ray.get(there.remote(*words))
    return found


_kept_to = 0


def keep_to_cores(count: int) -> None:
    """Lets this process compute on so many cores: others run beside it."""
    global _kept_to
    _kept_to = count


_files_stay = False


def keep_files_here(stay: bool) -> None:
    """Says whether tasks that hand files to one another have to run beside this process.

    They have to where a root lies in object storage: each node has a mirror of its own.
    """
    global _files_stay
    _files_stay = stay


def beside_files() -> dict[str, Any]:
    """Arguments of Ray Data for tasks that read files of this process, or leave it some.

    Raises:
        UserError: they have to run beside this process, where Ray may run nothing.
    """
    if not _files_stay:
        return {}
    _refuse_idle()
    return {"label_selector": {"ray.io/node-id": _node_here()}}


def _resources_here() -> dict[str, float]:
    node = _node_here()
    (here,) = (one for one in ray.nodes() if one["NodeID"] == node)  # type: ignore[no-untyped-call]
    found: dict[str, float] = here["Resources"]
    return found


def _refuse_idle() -> None:
    if _resources_here().get("CPU", 0) < 1:
        raise UserError(
            "a root in object storage is prepared on the node that the job was started on, and Ray "
            "may use no CPU of it (num-cpus: 0): give it some, or start the job on another node "
            "(ray job submit --entrypoint-num-cpus 1)"
        )


def num_cores() -> int:
    """Cores that this process may run on, in its container if it is in one."""
    return min(_kept_to or sys.maxsize, container.cores() or sys.maxsize, _all_cores())


def _all_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs of the cluster that this process is connected to."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU", 0))


def num_gpus_here() -> int:
    """Those of the node of this process."""
    return int(_resources_here().get("GPU", 0))


def has_own_gpu() -> bool:
    """Whether Ray has given this process a GPU, which it holds until it ends."""
    return bool(ray.get_runtime_context().get_accelerator_ids()["GPU"])


def _start_local(num_cpus: int) -> None:
    ray.init(
        address="local",
        num_cpus=max(num_cpus, num_cores() + 2),
        _node_ip_address=LOOPBACK,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
        object_store_memory=_object_store_bytes(),
    )


def _object_store_bytes() -> int:
    """A tenth of the memory that is free, between 128 MiB and 2 GiB."""
    return int(min(2048 * MIB, max(128 * MIB, container.free_memory() // 10)))
