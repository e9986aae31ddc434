import pytest
import ray

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
