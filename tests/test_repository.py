"""What a newcomer and the cluster launcher find at the top of the repository."""

import json
import os
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = {"data", "models", "ray_jobs", "serve", "tests"}
KUBERNETES = {"Dockerfile", "raycluster.yaml", "rayjob.yaml", "rayservice.yaml"}
FILES = {"README.md", "pyproject.toml", "Makefile", "cluster.yaml", *KUBERNETES} | {
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
}
TARGETS = "setup run sweep serve test verify check bench doctor"
MOST_LINES = 400


def ignored() -> list[str]:
    lines = (REPOSITORY / ".gitignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def cluster() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())
    return document


def test_the_top_level_is_what_the_design_says() -> None:
    patterns = [line.strip("/") for line in ignored()]
    found = {
        path.name
        for path in REPOSITORY.iterdir()
        if not path.name.startswith(".") and not any(fnmatch(path.name, p) for p in patterns)
    }
    assert found == FOLDERS | FILES


def test_ignored_folders_are_anchored_so_that_ray_uploads_our_packages() -> None:
    folders = [line for line in ignored() if "*" not in line and line != "__pycache__/"]
    assert all(line.startswith("/") and line.endswith("/") for line in folders)
    assert not {line.strip("/") for line in folders} & FOLDERS


def test_every_requirement_has_an_exact_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+", line)] == []


def test_nothing_of_ours_is_installed() -> None:
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools == {"packages": [], "py-modules": []}


@pytest.mark.parametrize("target", TARGETS.split())
def test_make_knows_the_target(target: str) -> None:
    assert dry_run(REPOSITORY, target)


def test_new_pins_ask_for_another_installation(tmp_path: Path) -> None:
    makefile, project = "Makefile", (REPOSITORY / "pyproject.toml").read_text()
    (tmp_path / makefile).write_text((REPOSITORY / makefile).read_text())
    assert stamp(tmp_path, project) != stamp(tmp_path, re.sub('rich==.*?"', 'rich==0.1"', project))
    assert stamp(tmp_path, project) == stamp(tmp_path, project.replace("max-args = 6", ""))
    assert stamp(tmp_path, project) != stamp(tmp_path, project, "GPU=1")


def stamp(folder: Path, project: str, *words: str) -> str:
    (folder / "pyproject.toml").write_text(project)
    return dry_run(folder, "setup", *words)[-1]


def dry_run(folder: Path, *words: str) -> list[str]:
    """What make would do, whatever make this test itself runs under was told."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    command = ["make", "--dry-run", "--no-print-directory", *words]
    done = subprocess.run(
        command, cwd=folder, env=inherited, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_cluster_file_fits_the_schema_of_ray() -> None:
    ray = pytest.importorskip("ray")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(cluster(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster() | {"worker_nodes": {}}, schema)


def test_the_cluster_has_a_head_without_gpu_and_workers_that_come_on_demand() -> None:
    document = cluster()
    types = document["available_node_types"]
    workers = [kind for name, kind in types.items() if name != document["head_node_type"]]
    assert not types[document["head_node_type"]]["node_config"]["InstanceType"].startswith(
        ("g", "p")
    )
    assert workers
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers)
    assert any("make setup GPU=1" in command for command in document["worker_setup_commands"])
    assert "train.device=gpu" in (REPOSITORY / "cluster.yaml").read_text().partition("provider:")[0]


def test_no_source_file_grows_beyond_measure() -> None:
    folders = [folder for folder in FOLDERS if folder != "tests"]
    files = (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: count for path, count in counts.items() if count > MOST_LINES} == {}
