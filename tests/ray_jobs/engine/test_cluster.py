import pytest
import ray

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
