import signal

import pytest
import ray
from ray._private import services

from data.contract.settings import UserError
from ray_jobs.engine import cluster


def test_a_process_that_is_kept_to_cores_counts_no_more(monkeypatch):
    monkeypatch.setattr(cluster, "_kept_to", 0)
    every = cluster.num_cores()
    cluster.keep_to_cores(1)
    assert cluster.num_cores() == 1
    cluster.keep_to_cores(every + 5)
    assert cluster.num_cores() == every


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_has_been_given_no_gpu():
    assert not cluster.has_own_gpu()
    assert not ray.get(ray.remote(cluster.has_own_gpu).remote())


@pytest.mark.parametrize("cpus", [4.0, 0.0])
def test_tasks_beside_a_job_need_a_cpu_of_its_node(ray_cluster, monkeypatch, cpus):
    monkeypatch.setattr(cluster, "_files_stay", True)
    node = cluster.ray.get_runtime_context().get_node_id()
    nodes = [{"NodeID": "another", "Resources": {"CPU": 8.0}}]
    own = {"NodeID": node, "Resources": {"CPU": cpus} if cpus else {}}
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [*nodes, own])
    if cpus:
        assert cluster.beside_files() == {"label_selector": {"ray.io/node-id": node}}
    else:
        with pytest.raises(UserError, match="may use no CPU of it"):
            cluster.beside_files()


@pytest.fixture
def started_with(monkeypatch):
    """What Ray is started with, in place of starting it; it takes SIGTERM as Ray does."""
    words = {}

    def init(**given):
        words.update(given)
        signal.signal(signal.SIGTERM, lambda number, frame: None)

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield words
    signal.signal(signal.SIGTERM, before)


def test_a_cluster_that_ray_start_has_left_is_not_joined(started_with, tmp_path):
    """Ray refuses to, with num_cpus: a job on a cluster's head, or beside other work, had died."""
    (tmp_path / "ray_current_cluster").write_text("192.0.2.1:6379")
    assert services.canonicalize_bootstrap_address(None, str(tmp_path)) == "192.0.2.1:6379"
    cluster.connect()
    address = started_with["address"]
    assert services.canonicalize_bootstrap_address(address, str(tmp_path)) is None


@pytest.mark.parametrize("address", ["", "192.0.2.1:6379"])
def test_ray_leaves_a_job_its_own_way_to_end(started_with, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster.connect()
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "nonsense"])
def test_an_address_that_is_no_clusters_is_the_callers_to_mend(monkeypatch, address):
    """Of the job server, say, which `ray job submit` reads from the same variable."""
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"RAY_ADDRESS={address} cannot be joined: Invalid"):
        cluster.connect()
