"""The files by which Ray Serve and KubeRay are told of the application."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from data.contract.settings import build
from serve.app import NAME
from serve.settings import ServeSettings

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def read(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text())


CONFIG, MANIFEST = read("serve/config.yaml"), read("rayservice.yaml")
ON_KUBERNETES = yaml.safe_load(MANIFEST["spec"]["serveConfigV2"])


@pytest.mark.parametrize("config", [CONFIG, ON_KUBERNETES], ids=["config", "rayservice"])
def test_ray_serve_takes_the_configuration(config: Any) -> None:
    found = ServeDeploySchema.model_validate(config).applications[0]
    assert found.import_path == "serve.app:app"
    assert [deployment.name for deployment in found.deployments] == [NAME]
    assert found.deployments[0].user_config == {"bundle": ""}
    settings = build(ServeSettings, found.args["settings"])
    assert settings.most_replicas > settings.replicas


def test_both_files_tell_of_one_application() -> None:
    assert ON_KUBERNETES["applications"] == CONFIG["applications"]


def test_a_server_that_others_reach_is_not_the_default() -> None:
    assert CONFIG["http_options"]["host"] == "127.0.0.1"
    cluster = MANIFEST["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert "HOMEFEED_TOKEN" in [variable["name"] for variable in container["env"]]
        assert (
            container["volumeMounts"][0]["name"] == group["template"]["spec"]["volumes"][0]["name"]
        )


def test_the_cluster_runs_the_pinned_ray() -> None:
    version = MANIFEST["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"]=={version}" in (REPOSITORY / "pyproject.toml").read_text()
