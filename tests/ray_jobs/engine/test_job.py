"""The grammar of jobs: words in, one JSON line out, exit codes that tell whose turn it is."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.contract.artifact import current, publish, read
from data.contract.settings import UserError, help_lines
from ray_jobs.embed import EmbedArguments
from ray_jobs.engine.job import Job, fail, finish, help_text, keep, run, start
from ray_jobs.pipeline import PipelineArguments, main
from ray_jobs.sample import SampleArguments
from ray_jobs.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[3]


def test_every_setting_is_explained_in_the_help() -> None:
    unexplained = [key for key, _, _, text in help_lines(Settings) if not text]
    assert unexplained == []
    text = help_text("pipeline", main, PipelineArguments)
    assert "two_tower.id_dropout" in text
    assert "Words of this job" in text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("two_tower.id_dropuot=0.1", "did you mean two_tower.id_dropout"),
        ("two_tower.id_dropout=1.5", "two_tower.id_dropout"),
        ("modle=ranker", "did you mean model"),
        ("train=3", "is a group of settings"),
        ("nonsense", "neither key=value"),
        ("missing.yaml", "does not exist"),
        ("root=", "root: String should have at least 1 character"),
    ],
)
def test_a_wrong_word_is_refused_with_the_way_out(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        start([f"root={tmp_path}", word], PipelineArguments)


@pytest.mark.parametrize("arguments", [SampleArguments, EmbedArguments])
@pytest.mark.parametrize("day", [0, -5])
def test_days_of_a_log_count_from_1(arguments: type[Any], day: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="day: Input should be greater than or equal to 1"):
        start([f"root={tmp_path}", f"day={day}"], arguments)


def test_a_root_remembers_what_its_artefacts_are_and_words_win(tmp_path: Path) -> None:
    keep(tmp_path, {"world": {"preset": "tiny"}, "train": {"max_steps": 3}})
    assert start([f"root={tmp_path}"]).settings.world.preset == "tiny"
    assert start([f"root={tmp_path}"]).settings.train.max_steps == 0
    assert start([f"root={tmp_path}", "world.preset=drift1"]).settings.world.preset == "drift1"


@pytest.mark.parametrize(
    ("root", "message"),
    [("file", "file is a file"), ("file/below", "file is a file")],
)
def test_a_root_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError, match=message):
        start([f"root={root}"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch) -> None:
    there = os.access
    monkeypatch.setattr("os.access", lambda p, mode: mode == os.F_OK and there(p, mode))
    with pytest.raises(UserError, match="you may not write to"):
        start([f"root={tmp_path / 'root'}"])


def test_a_submitted_job_needs_a_root_that_outlives_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match=r"root=runs/default .* submitted job"):
        start([])
    assert start([f"root={tmp_path}"]).root == tmp_path


def test_a_full_disk_is_no_traceback(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(job: Job) -> dict[str, str]:
        raise OSError(errno.ENOSPC, "No space left on device", "x/events.arrow")

    monkeypatch.setattr("sys.argv", ["simulate", f"root={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        run("simulate", full)
    assert ended.value.code == 2
    assert "x/events.arrow: No space left" in capsys.readouterr().err


def test_a_disk_that_is_full_when_the_summary_is_written_is_no_traceback_either(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def write(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("sys.argv", ["work", f"root={tmp_path}"])
    monkeypatch.setattr("ray_jobs.engine.job.write_atomically", write)
    with pytest.raises(SystemExit) as ended:
        run("work", lambda _: {})
    assert ended.value.code == 2
    assert "make room" in capsys.readouterr().err


def test_a_summary_is_json_whatever_was_measured(tmp_path: Path, capsys) -> None:
    measured = {"auc": float("nan"), "table": [{"ratio": np.float64("inf")}, (1.5, None)]}
    finish(Job(Settings(), None, tmp_path), {"metrics": measured})
    line = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "summary.json").read_text() == line + "\n"
    found = json.loads(line, parse_constant=pytest.fail)
    assert found["metrics"] == {"auc": None, "table": [{"ratio": None}, [1.5, None]]}


def test_what_led_to_no_data_set_is_not_remembered(tmp_path: Path) -> None:
    words = [f"root={tmp_path}", "source.timestamp_unit=s"]
    job = start(words, remember=True)
    assert not (tmp_path / "settings.yaml").exists()
    job.remember()
    assert start([f"root={tmp_path}"]).settings.source.timestamp_unit == "s"
    start(words).remember()


def test_an_artefact_is_made_once_and_its_pointer_never_moves_back(tmp_path: Path) -> None:
    job = start([f"root={tmp_path}"])
    made = []
    for _ in range(2):
        first = job.make("dataset", [], {"day": 1}, lambda draft: made.append(draft.path))
    assert len(made) == 1
    later = job.make("dataset", [first], {"day": 2}, lambda draft: made.append(draft.path))
    job.make("dataset", [], {"day": 1}, lambda draft: made.append(draft.path))
    assert len(made) == 2
    assert current(tmp_path, "dataset").version == later.version


def test_a_pointer_to_what_was_removed_by_hand_holds_nothing_up(tmp_path: Path) -> None:
    job = start([f"root={tmp_path}"])
    first = job.make("graph", [], {"seed": 1}, lambda _: None)
    shutil.rmtree(job.make("graph", [first], {"seed": 2}, lambda _: None).path)
    made = job.make("graph", [], {"seed": 3}, lambda _: None)
    assert current(tmp_path, "graph").version == made.version


def test_a_manifest_tells_what_its_artefact_took_and_the_job_what_was_made(tmp_path: Path) -> None:
    words = [f"root={tmp_path}"]
    jobs = start(words), start(words)
    for job in jobs:
        with job.stage("prepare"):
            made = job.make("dataset", [], {}, lambda _: time.sleep(0.05))
    assert made.manifest.seconds is not None
    assert 0.05 <= made.manifest.seconds <= jobs[0].seconds["prepare"] + 0.01
    assert 0 < (made.manifest.peak_mib or 0) <= jobs[0].peak_mib["prepare"]
    assert [job.made for job in jobs] == [[made.manifest.name], []]


def test_a_half_written_artefact_is_not_seen_and_is_made_again(tmp_path: Path) -> None:
    def interrupted() -> None:
        with publish(tmp_path, "dataset", "v1") as draft:
            (draft.path / "half").write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        interrupted()
    with pytest.raises(UserError, match="has not finished"):
        read(tmp_path / "dataset" / "v1")
    with publish(tmp_path, "dataset", "v1") as draft:
        (draft.path / "whole").write_text("whole")
    assert set(read(tmp_path / "dataset" / "v1").manifest.checksums) == {"whole"}


def test_bad_input_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs.prepare", f"root={tmp_path}", "source.kind=table"]
    done = subprocess.run(
        [*command, "source.events=/nowhere/log.parquet"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 2
    assert "/nowhere/log.parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_summary_is_the_last_line_and_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs.simulate", f"root={tmp_path}", "world.preset=tiny"]
    words = ["world.days=6", "world.num_users=30", "world.num_items=100"]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["job"] == "simulate"
    assert summary["seconds"]["world"] > 0
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


TOLD_TO_END = """
import os, signal, sys
from ray_jobs.engine import cluster
from ray_jobs.engine.job import run

def init(**words):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does

def work(job):
    cluster.connect()
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()

cluster.ray.init = init
run("work", work)
"""


@pytest.mark.parametrize("address", ["", "192.0.2.1:6379"])
def test_a_job_that_is_told_to_end_says_so_with_the_code_of_an_interrupted_one(
    tmp_path: Path, address: str
) -> None:
    command = [sys.executable, "-c", TOLD_TO_END, f"root={tmp_path}"]
    environment = os.environ | {"RAY_ADDRESS": address}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=False
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted; run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


STARTED = """
import gc, sys
sys.argv = ["-m"]  # as `python -m` has it while it looks for the job
from ray_jobs.engine.job import run
imported = gc.isenabled()
sys.argv = ["job", f"root={sys.stdin.read()}"]
run("job", lambda job: {"collects": [imported, gc.isenabled()], "frozen": gc.get_freeze_count()})
"""


def test_neither_the_summary_nor_an_error_shows_a_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(Job(Settings(), None, tmp_path), {"root": "s3://KEY:hunter2@bucket/root"})
    assert json.loads((tmp_path / "summary.json").read_text())["root"] == "s3://KEY@bucket/root"
    with pytest.raises(SystemExit):
        fail("/tmp/homefeed-mirror/s3/KEY:hunter2@bucket/root is a file")
    said = capsys.readouterr()
    assert "KEY@bucket" in said.err
    assert "hunter2" not in said.out + said.err


def test_garbage_is_looked_for_when_a_job_works_and_not_while_it_imports(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTED]
    done = subprocess.run(
        command, input=str(tmp_path), capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["collects"] == [False, True]
    assert summary["frozen"] > 100_000
