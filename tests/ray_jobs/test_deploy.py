"""Serving a root from the command line, and asking a server for a feed."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from ray import serve

from data.contract import artifact
from data.contract.settings import UserError
from ray_jobs import deploy
from ray_jobs.deploy import (
    ask,
    check_served,
    free_port,
    known_user,
    main,
    place,
    prepare_environment,
    refuse_taken_port,
    serves_root,
    wait_for_bundle,
)
from ray_jobs.engine import cluster
from ray_jobs.engine.job import Job
from serve.api import create_api
from serve.feed import Feed
from serve.proxies import ENVIRONMENT
from serve.settings import ServeSettings
from tests.tiny_root import TinyLog, write_bundle

CLIENT = httpx.Client
REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "root", "v1", TinyLog())


def job_of(root: Path, **settings: Any) -> Job:
    chosen = ServeSettings(
        budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}, poll_seconds=0.1, **settings
    )
    return Job(SimpleNamespace(serve=chosen), None, root)  # type: ignore[arg-type]


@contextmanager
def running(job: Job) -> Iterator[str]:
    """The root behind a plain HTTP server in this process."""
    feed = Feed(job.root, job.settings.serve)
    port = job.settings.serve.port
    config = uvicorn.Config(create_api(feed), port=port, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url)
        yield url
    finally:
        server.should_exit = True
        thread.join()
        feed.close()


def wait_until_ready(url: str, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, "the server did not come up"
        time.sleep(0.1)


def test_a_running_server_of_the_root_is_asked_once_it_has_switched(root: Path) -> None:
    job = job_of(root, port=free_port("127.0.0.1"))
    with running(job) as url:
        assert serves_root(url, str(root.resolve()))
        write_bundle(root, "v2", TinyLog())
        served = check_served(job)
        assert httpx.get(f"{url}/v1/models").json()["bundle"] == "v2"
    assert served["status"] == 200
    assert served["num_items"] == 10
    assert served["fallback"] is False
    assert served["latency_ms"] > 0


def test_a_server_that_a_job_starts_for_itself_lets_nobody_else_in(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are its feeds logged: a next day would learn that a user passed all of them over."""
    started: list[ServeSettings] = []

    @contextmanager
    def served(root: Path, settings: ServeSettings, port: int) -> Iterator[str]:
        started.append(settings)
        with running(job_of(root, port=port)) as url:
            yield url

    monkeypatch.setattr(deploy, "served", served)
    job = job_of(root, port=free_port("127.0.0.1"), host="0.0.0.0", proxy="haproxy", candidates=50)
    assert check_served(job)["status"] == 200
    assert (started[0].host, started[0].proxy) == ("127.0.0.1", "python")
    assert not started[0].log_requests
    assert started[0].candidates == 50


def test_a_server_that_refuses_the_bundle_is_an_error_with_its_reason(
    root: Path, tmp_path: Path
) -> None:
    job = job_of(root, port=free_port("127.0.0.1"))
    broken = write_bundle(tmp_path / "elsewhere", "v2", TinyLog()) / "bundles" / "v2"
    (broken / "popular.npy").write_bytes(b"broken")
    with running(job):
        shutil.copytree(broken, root / "bundles" / "v2")
        artifact.point(root, artifact.read(root / "bundles" / "v2"))
        with pytest.raises(UserError, match=r"refuses bundle v2: .*popular\.npy"):
            check_served(job)


def test_a_server_of_another_root_is_not_asked(root: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(root, tmp_path / "other"))
    port = free_port("127.0.0.1")
    with running(job_of(other, port=port)) as url:
        assert not serves_root(url, str(root.resolve()))


class Server:
    """Answers as a server of ours does, from a list; the last answer is given again.

    A number is the status of a server that is too busy.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        self._answers = list(answers)
        transport = httpx.MockTransport(self._answer)
        monkeypatch.setattr(httpx, "Client", partial(CLIENT, transport=transport))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer, json={"detail": "too many requests in work"})
        return httpx.Response(200, json=answer)


def serving(bundle: str, root: Path | None = None) -> dict[str, Any]:
    return {"bundle": bundle, "refused": None, "root": str(root and root.resolve()), "items": [{}]}


def test_a_busy_server_is_asked_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch, 503, httpx.ReadTimeout("slow"), 503, serving("v1"), serving("v2"))
    assert wait_for_bundle("http://server", "v2")["bundle"] == "v2"


def test_a_busy_server_is_known_by_its_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch, 503, 503, serving("v1", root))
    assert serves_root("http://server", str(root.resolve()))
    Server(monkeypatch, httpx.ConnectError("refused"))
    assert not serves_root("http://server", str(root.resolve()))


@pytest.mark.parametrize(
    ("then", "status", "said"),
    [(None, 200, "has not switched to bundle v1"), (503, 503, "gave no feed: 503")],
)
def test_a_server_that_has_not_switched_is_a_warning(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    then: int | None,
    status: int,
    said: str,
) -> None:
    monkeypatch.setattr(deploy, "SWITCH_SECONDS", 0.0)
    old = serving("v0", root)
    Server(monkeypatch, old, old, then or old)
    served = check_served(job_of(root))
    assert (served["status"], served["bundle"]) == (status, "v0")
    assert said in served["warning"]
    assert said in capsys.readouterr().err


def test_a_server_that_gives_no_answer_fails_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch, httpx.ReadTimeout("slow"))
    found = ask("http://server", 1)
    assert (found["status"], found["num_items"]) == (None, 0)
    assert "gave no feed: no answer" in found["warning"]


def process() -> int:
    return os.getpid()


@pytest.fixture
def on_another_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process were a job that was submitted to a node that is not the head."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(cluster, "_node_here", lambda: "another")


def test_a_job_on_another_node_asks_on_the_head(ray_cluster: None, on_another_node: None) -> None:
    assert cluster.on_head(process) != os.getpid()
    assert place().startswith(" on the cluster's head, 127.0.0.2")


def test_a_job_on_the_head_asks_there_itself(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.on_head(process) == os.getpid()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster.on_head(process) == os.getpid()
    assert place() == ""


@pytest.mark.parametrize("on", ["the head", "another node"])
def test_without_a_server_one_is_started_asked_and_ended(
    ray_cluster: None, root: Path, on: str, request: pytest.FixtureRequest
) -> None:
    if on == "another node":
        request.getfixturevalue("on_another_node")
    served = check_served(job_of(root, port=free_port("127.0.0.1")))
    assert (served["status"], served["num_items"], served["fallback"]) == (200, 10, False)
    assert served["bundle"] == "v1"
    assert "warning" not in served


def test_a_running_serve_is_left_alone(ray_cluster: None, root: Path) -> None:
    serve.start(proxy_location="HeadOnly", http_options={"port": free_port("127.0.0.1")})
    try:
        with pytest.raises(UserError, match="runs Serve already"):
            check_served(job_of(root, port=free_port("127.0.0.1")))
        assert serve.status().proxies
    finally:
        serve.shutdown()


def test_the_user_asked_for_has_a_history_of_middling_length(root: Path) -> None:
    log = TinyLog()
    lengths = np.sort(log.lengths[log.lengths > 0])
    user = known_user(job_of(root))
    assert log.lengths[int(user) - 1] == lengths[len(lengths) // 2]


def test_a_taken_port_is_refused(root: Path) -> None:
    job = job_of(root, port=free_port("127.0.0.1"))
    with running(job), pytest.raises(UserError, match=r"is taken; set serve\.port"):
        refuse_taken_port(job.settings.serve)


def test_a_root_without_a_bundle_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no bundles yet"):
        main(job_of(tmp_path))


WITHOUT_RAY = """
import contextlib, signal, sys
from ray_jobs import deploy
from ray_jobs.engine import cluster
from ray_jobs.engine.job import run

def init(**words):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does

@contextlib.contextmanager
def served(root, settings, port):
    cluster.connect()
    yield "http://nowhere"

cluster.ray.init = init
deploy.served = served
run("deploy", deploy.main)
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_server_in_the_background_of_a_script_can_be_ended(
    root: Path, ending: signal.Signals
) -> None:
    words = [sys.executable, "-c", WITHOUT_RAY, f"root={root}", "serve.port=0"]
    script = f"{shlex.join(words)} & echo $!; wait $!"  # such a shell lets it ignore SIGINT
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    shell = subprocess.Popen(["sh", "-c", script], cwd=REPOSITORY, **pipes)
    pid = int(shell.stdout.readline())
    try:
        assert any("serving" in line for line in iter(shell.stderr.readline, ""))
        os.kill(pid, ending)
        output, errors = shell.communicate(timeout=60)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        shell.communicate()
        raise
    assert shell.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["bundle"] == "v1"


@pytest.mark.ray
def test_deploy_serves_in_the_foreground_until_interrupted(root: Path) -> None:
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "ray_jobs.deploy", f"root={root}", f"serve.port={port}"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, **pipes)
    try:
        announced = ""
        while "serving" not in announced and (line := process.stderr.readline()):
            announced += line
        assert "serving" in announced, announced
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/recommend", json={"user_id": 3}, timeout=30
        )
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal: the whole group
        output, errors = process.communicate(timeout=90)
    finally:
        process.kill()
    assert f"serving bundles/v1 at http://127.0.0.1:{port}" in announced
    assert answer.status_code == 200
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert json.loads(output.splitlines()[-1])["bundle"] == "v1"


def test_haproxy_is_chosen_before_ray_serve_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the choice when it is imported, and so do the processes that it starts."""
    again: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "execve", lambda *words: again.append(words))
    for name in ENVIRONMENT["haproxy"]:
        monkeypatch.delenv(name, raising=False)
    prepare_environment("python")
    assert again == []
    prepare_environment("haproxy")
    (_, words, environment) = again[0]
    assert words == sys.orig_argv
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    for name, value in ENVIRONMENT["haproxy"].items():
        monkeypatch.setenv(name, value)
    prepare_environment("haproxy")
    assert len(again) == 1
