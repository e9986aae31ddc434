"""The files by which Ray Serve and KubeRay are told of the application."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
from ray.serve.schema import ServeDeploySchema

from data.contract.settings import build, read_words
from ray_jobs.settings import Settings
from serve.app import NAME
from serve.redis_store import PASSWORD
from serve.settings import ServeSettings

GPU = "nvidia.com/gpu"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def read(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text())


CONFIG, MANIFEST = read("serve/config.yaml"), read("rayservice.yaml")
CLUSTERS = {
    "rayservice": MANIFEST["spec"]["rayClusterConfig"],
    "raycluster": read("raycluster.yaml")["spec"],
    "rayjob": read("rayjob.yaml")["spec"]["rayClusterSpec"],
}
ON_KUBERNETES = yaml.safe_load(MANIFEST["spec"]["serveConfigV2"])


@pytest.mark.parametrize("config", [CONFIG, ON_KUBERNETES], ids=["config", "rayservice"])
def test_ray_serve_takes_the_configuration(config: Any) -> None:
    found = ServeDeploySchema.model_validate(config).applications[0]
    assert found.import_path == "serve.app:app"
    assert [deployment.name for deployment in found.deployments] == [NAME]
    assert found.deployments[0].user_config == {"bundle": ""}
    settings = build(ServeSettings, found.args["settings"])
    assert settings.most_replicas > settings.replicas
    assert config["http_options"]["request_timeout_s"] > 2 * settings.budget_ms / 1000


def test_both_files_tell_of_one_application() -> None:
    assert ON_KUBERNETES["applications"] == CONFIG["applications"]


def pods(cluster: Any) -> list[Any]:
    """Specification of each group's pods."""
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [group["template"]["spec"] for group in groups]


def containers(cluster: Any) -> list[Any]:
    """Container of each group, and its group's volumes."""
    return [(one, pod["volumes"]) for pod in pods(cluster) for one in pod["containers"]]


def test_a_server_that_others_reach_is_not_the_default() -> None:
    assert CONFIG["http_options"]["host"] == "127.0.0.1"
    for container, _ in containers(CLUSTERS["rayservice"]):
        assert "HOMEFEED_TOKEN" in [variable["name"] for variable in container["env"]]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_pod_is_not_killed_while_ray_drains_its_node(name: str) -> None:
    """Kubernetes waits 30 seconds by default, Ray as long: replicas would be killed at work."""
    for pod in pods(CLUSTERS[name]):
        assert pod["terminationGracePeriodSeconds"] > RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S


def test_replicas_have_room_while_a_worker_is_drained() -> None:
    (workers,) = CLUSTERS["rayservice"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    settings = ON_KUBERNETES["applications"][0]["args"]["settings"]
    cpus = int(container["resources"]["limits"]["cpu"])
    assert (workers["minReplicas"] - 1) * cpus >= settings["replicas"]
    assert workers["maxReplicas"] * cpus >= settings["max_replicas"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_all_pods_run_the_image_and_mount_the_root(name: str) -> None:
    found = containers(CLUSTERS[name])
    assert len(found) >= 2
    for container, volumes in found:
        gpu = "-gpu" if GPU in container["resources"]["limits"] else ""
        assert container["image"] == f"homefeed:{PROJECT['version']}{gpu}"
        assert container["volumeMounts"][0]["name"] == volumes[0]["name"]
        assert container["workingDir"] == "/home/ray/homefeed"


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_password_of_the_store_is_a_secret(name: str) -> None:
    for container, _ in containers(CLUSTERS[name]):
        (found,) = [one for one in container["env"] if one["name"] == PASSWORD]
        assert found["valueFrom"]["secretKeyRef"]["optional"], "a server may have none"


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_runs_the_pinned_ray_and_asks_for_a_token(name: str) -> None:
    assert CLUSTERS[name]["authOptions"] == {"mode": "token"}
    pins = [pin for pin in PROJECT["dependencies"] if pin.startswith("ray[")]
    assert pins[0].endswith(f"]=={CLUSTERS[name]['rayVersion']}")


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_user_of_the_image_may_write_the_root(name: str) -> None:
    (group,) = re.findall(r"--uid 1000 --gid (\d+) ray", (REPOSITORY / "Dockerfile").read_text())
    for pod in pods(CLUSTERS[name]):
        assert pod["securityContext"] == {"fsGroup": int(group)}


def test_gpus_start_when_they_are_asked_for() -> None:
    groups = CLUSTERS["raycluster"]["workerGroupSpecs"]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    gpus = [int(one["resources"]["limits"].get(GPU, 0)) for one in containers]
    assert sorted(gpus) == [0, 1]
    assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in groups)


def test_the_secret_of_clients_is_not_the_one_that_the_operator_makes() -> None:
    """KubeRay keeps a cluster's token in a secret of the cluster's name."""
    for container, _ in containers(CLUSTERS["rayservice"]):
        (token,) = [v for v in container["env"] if v["name"] == "HOMEFEED_TOKEN"]
        assert (
            token["valueFrom"]["secretKeyRef"]["name"]
            != read("raycluster.yaml")["metadata"]["name"]
        )


def test_jobs_find_a_cluster_of_one_kind() -> None:
    assert CLUSTERS["raycluster"] == CLUSTERS["rayjob"]


def settings_of(command: str) -> Settings:
    _, _, module, *words = command.split()
    assert module == "ray_jobs.pipeline"
    return build(Settings, read_words([word for word in words if word != "day=next"]))


def test_jobs_read_the_store_that_the_service_posts_to() -> None:
    store = ON_KUBERNETES["applications"][0]["args"]["settings"]["store"]
    lines = (REPOSITORY / "raycluster.yaml").read_text().replace(" \\\n#", " ").splitlines()
    (by_hand,) = (line[line.index("python -m") :] for line in lines if "python -m" in line)
    for command in (read("rayjob.yaml")["spec"]["entrypoint"], by_hand):
        assert settings_of(command).serve.store == store


def test_the_service_and_the_cluster_for_jobs_stand_in_one_namespace() -> None:
    """KubeRay names the head's service of either `<name>-head-svc`."""
    assert MANIFEST["metadata"]["name"] != read("raycluster.yaml")["metadata"]["name"]
    comment = (REPOSITORY / "rayservice.yaml").read_text()
    assert f"service/{MANIFEST['metadata']['name']}-serve-svc" in comment


def test_the_job_is_one_that_there_is() -> None:
    settings = settings_of(read("rayjob.yaml")["spec"]["entrypoint"])
    workers = CLUSTERS["rayjob"]["workerGroupSpecs"][0]["maxReplicas"]
    assert settings.train.num_workers <= workers
    assert Path(settings.root).is_relative_to(
        containers(CLUSTERS["rayjob"])[0][0]["volumeMounts"][0]["mountPath"]
    )


def test_the_image_copies_what_there_is() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    copied = [line.split()[2:-1] for line in lines if line.startswith("COPY")]
    assert copied[-1] == ["."]
    assert all((REPOSITORY / name).exists() for names in copied for name in names)
    home = next(line.split()[1] for line in lines if line.startswith("WORKDIR"))
    assert home == containers(CLUSTERS["rayjob"])[0][0]["workingDir"]
