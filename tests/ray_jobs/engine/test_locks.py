import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from data.contract.artifact import find
from ray_jobs.engine.job import start
from ray_jobs.engine.locks import turn, unless_held

WAITS = """
import sys
from pathlib import Path
from ray_jobs.engine.locks import turn, unless_held

with turn(Path(sys.argv[1]), "a-v"):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_turn_is_had_by_one_process_and_ends_with_it(tmp_path):
    line = [sys.executable, "-c", WAITS, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "mine\n"
        with turn(tmp_path, "another"):
            pass
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        second = subprocess.Popen(line, **pipes, text=True)
        assert second.stderr.readline() == "a-v: another process makes it; waiting\n"
        assert second.poll() is None
        first.kill()
        assert second.stdout.readline() == "mine\n"
        second.communicate("")
    assert second.returncode == 0
    assert list((tmp_path / ".work").iterdir()) == [], "nothing is left behind"


def test_what_is_done_unless_a_turn_is_held_does_not_wait_for_it(tmp_path):
    done = []
    with turn(tmp_path, "a-v"):
        unless_held(tmp_path, "a-v", lambda: done.append("a"))
        unless_held(tmp_path, "b-v", lambda: done.append("b"))
    assert done == ["b"]
    unless_held(tmp_path, "a-v", lambda: done.append("a"))
    assert done == ["b", "a"]
    assert list((tmp_path / ".work").iterdir()) == []


def test_of_many_that_wait_one_at_a_time_has_the_turn(tmp_path):
    count = tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(20):
            with turn(tmp_path, "a-v"):
                number = int(count.read_text())
                time.sleep(0.0005)
                count.write_text(str(number + 1))

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(add) for _ in range(4)]:
            one.result()
    assert count.read_text() == "80"


def test_an_artefact_that_several_want_at_once_is_made_once(tmp_path):
    job, made = start([f"root={tmp_path}"]), []

    def write(draft):
        made.append(draft.path)
        time.sleep(0.2)

    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(job.make, "kind", [], {"a": 1}, write) for _ in range(3)]
        versions = {one.result().version for one in found}
    assert len(made) == len(versions) == 1
    assert find(job.root, "kind", versions.pop()) is not None
