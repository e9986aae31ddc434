"""A root in object storage: written where no other disk can be, and read on another machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.processes import REPOSITORY, environment
from tests.object_store import BUCKET, running_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = f"s3://{BUCKET}/homefeed/default"
WORDS = ("world.preset=tiny", "train.max_steps=10", "train.validate_every=5")
# All of the disk but one folder can be read alone; what forgets the storage fails.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o bind,remount,ro / && exec "$@"'
APART = ["unshare", "--map-root-user", "--mount", "bash", "-c", READ_ONLY]


class Machine:
    """A machine with a disk of its own, of which jobs may write to one folder."""

    def __init__(self, storage: dict[str, str]) -> None:
        # Not below pytest's folder: the paths of Ray's sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))
        places = ("TMPDIR", "RAY_TMPDIR", "HOME", "HOMEFEED_MIRROR")
        self.environment = environment() | storage | dict.fromkeys(places, str(self.folder))
        self.environment["NUMBA_CACHE_DIR"] = str(self._take_kernels())

    def _take_kernels(self) -> Path:
        """What other tests have compiled: its folder is not writable here."""
        kernels = self.folder / "kernels"
        shutil.copytree(os.environ["NUMBA_CACHE_DIR"], kernels, dirs_exist_ok=True)
        return kernels

    def run(self, job: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"ray_jobs.{job}", f"root={ROOT}", *words]
        return subprocess.run(
            [*APART, str(self.folder), *command],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def storage() -> Iterator[dict[str, str]]:
    with running_s3() as variables:
        yield variables


@pytest.fixture
def machine(storage: dict[str, str]) -> Iterator[Any]:
    """Makes machines."""
    made: list[Machine] = []

    def make() -> Machine:
        made.append(Machine(storage))
        return made[-1]

    yield make
    for one in made:
        shutil.rmtree(one.folder, ignore_errors=True)


def summary_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_pipeline_needs_no_other_disk_and_another_machine_finds_it_done(machine: Any) -> None:
    first = machine()
    made = summary_of(first.run("pipeline", *WORDS))
    assert made["root"] == ROOT
    assert made["served"]["fallback"] is False
    shutil.rmtree(first.folder)
    second = machine()
    done = second.run("pipeline", *WORDS)
    found = summary_of(done)
    assert found["bundle"] == made["bundle"]
    assert found["metrics"] == made["metrics"]
    for kind in ("world", "two_tower", "ranker", "evaluation", "bundles"):
        assert f"{kind}/" in done.stderr
    assert done.stderr.count("is up to date") >= 8
    assert "samples/s" not in done.stderr  # nothing was trained


def test_the_doctor_tells_whether_a_storage_can_be_written(storage: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ray_jobs.doctor"]
    url = storage["AWS_ENDPOINT_URL"]
    here = {name: value for name, value in storage.items() if name != "AWS_ENDPOINT_URL"}
    found = {}
    for root in (
        f"s3://{BUCKET}/tried?endpoint_override={url}",
        f"s3://nobody?endpoint_override={url}",
    ):
        done = subprocess.run(
            [*command, f"root={root}"],
            cwd=REPOSITORY,
            env=environment() | here,
            capture_output=True,
            text=True,
            check=False,
        )
        checks = json.loads(done.stdout.splitlines()[-1])["checks"]
        found[root.partition("?")[0]] = next(c for c in checks if c["name"] == f"root {root}")
    assert found[f"s3://{BUCKET}/tried"]["ok"], found
    assert "there is no bucket nobody" in found["s3://nobody"]["found"]


def test_a_bucket_that_is_not_there_is_named(machine: Any) -> None:
    other = machine()
    command = [sys.executable, "-m", "ray_jobs.prepare", "root=s3://nobody/homefeed"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=other.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no bucket nobody" in done.stderr
