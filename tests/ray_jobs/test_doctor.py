import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from data.contract.settings import UserError, load
from ray_jobs import doctor
from ray_jobs.doctor import Check, DoctorSettings

PYPROJECT = """
[project]
requires-python = ">={python}"
dependencies = ["rich=={rich}", "no-such-library-of-ours==1.0"]
[project.optional-dependencies]
cpu = ["numpy[extra]==0.0.1"]
gpu = ["cuda-thing==2.0"]
torchrec = ["torchrec==1.8.0"]
"""


def pyproject(folder: Path, python: str = "3.11") -> Path:
    path = folder / "pyproject.toml"
    path.write_text(PYPROJECT.format(python=python, rich=doctor.installed_version("rich")))
    return path


def test_the_pins_of_one_build_are_read(tmp_path: Path) -> None:
    pins = doctor.read_pins(pyproject(tmp_path), "cpu")
    assert pins["numpy"] == "0.0.1"
    assert pins["torchrec"] == "1.8.0"
    assert "cuda-thing" not in pins


def test_this_environment_holds_the_pinned_versions() -> None:
    names = doctor.read_pins(doctor.PROJECT, "cpu").keys() | doctor.read_pins(doctor.PROJECT, "gpu")
    assert {"ray", "torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "PyYAML"} <= names
    assert all(check.ok for check in doctor.check_packages(doctor.PROJECT))


def test_a_wrong_and_an_absent_package_are_named(tmp_path: Path) -> None:
    found = {check.name: check.found for check in doctor.check_packages(pyproject(tmp_path))}
    assert found["no-such-library-of-ours"] == "absent, pinned 1.0"
    assert found["numpy"].endswith("pinned 0.0.1")
    assert "rich" not in found


def test_the_local_part_of_a_version_does_not_count() -> None:
    assert re.fullmatch(r"[\d.]+", doctor.installed_version("torch"))


@pytest.mark.parametrize(("python", "ok"), [("3.11", True), ("99.0", False)])
def test_an_old_interpreter_is_refused(tmp_path: Path, python: str, ok: bool) -> None:
    assert doctor.check_python(pyproject(tmp_path, python)).ok is ok


def test_a_port_in_use_is_found() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not doctor.check_port(port).ok
    assert doctor.check_port(port).ok


def test_an_unwritable_root_is_found(tmp_path: Path) -> None:
    assert doctor.check_root(tmp_path / "new" / "run").ok
    assert not doctor.check_root(Path("/proc/homefeed")).ok


def test_a_root_in_object_storage_is_tried_there_and_in_its_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEFEED_MIRROR", str(tmp_path / "here"))
    monkeypatch.chdir(tmp_path)
    disk, mirror, root = doctor.check_places(f"file://{tmp_path}/root")
    assert (disk.name, disk.ok) == ("disk of the mirror", doctor.check_disk("", tmp_path, "").ok)
    assert mirror.ok
    assert mirror.name == f"mirror {tmp_path}/here/homefeed-mirror"
    assert root == Check(
        name=f"root file://{tmp_path}/root",
        ok=True,
        found="answers, and can be written",
        remedy=root.remedy,
    )
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    assert not (tmp_path / "file:").exists()


def test_a_storage_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, root = doctor.check_places("nosuch://bucket/root")
    assert not root.ok
    assert root.found.startswith("nosuch:// is no storage that can be reached")
    monkeypatch.setattr(doctor, "STORAGE", "import time; time.sleep(60)")
    assert "longer than 0.1 s" in doctor.check_storage("s3://bucket", timeout_s=0.1).found
    monkeypatch.setattr(doctor, "MIRROR", "raise ImportError('no pyarrow')")
    (root,) = doctor.check_places("s3://bucket/root")
    assert (root.ok, root.found) == (False, "ImportError: no pyarrow")


def test_a_run_needs_more_memory_than_a_full_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda: doctor.GIB)
    check = doctor.check_memory()
    assert not check.ok
    assert check.found == "1.0 GiB free"


def test_a_crash_while_loading_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TRIPLE", "raise ImportError('undefined symbol')")
    check = doctor.check_triple()
    assert not check.ok
    assert "undefined symbol" in check.found
    monkeypatch.setattr(doctor, "TRIPLE", "import os; os.abort()")
    assert doctor.check_triple().found == "the process crashed"


def test_only_failing_lines_show_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        Check(name="disk", ok=True, found="much", remedy="buy one"),
        Check(name="port", ok=False, found="in use", remedy="take another"),
    ]
    doctor.show(checks, Console(stderr=True, width=120))
    shown = capsys.readouterr().err
    assert "take another" in shown
    assert "buy one" not in shown


@pytest.mark.parametrize("word", ["prots=[1]", "ports=[70000]", "root=[1]"])
def test_bad_words_are_refused(word: str) -> None:
    with pytest.raises(UserError):
        load(DoctorSettings, [word])
    assert doctor.main([word]) == 2


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_names_every_word(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([word]) == 0
    told = capsys.readouterr().out
    assert (doctor.__doc__ or "").splitlines()[0] in told
    assert re.findall(r"^  (\w+) ", told, re.MULTILINE) == ["root", "ports"]


def test_a_run_needs_what_the_readme_says() -> None:
    readme = (doctor.PROJECT.parent / "README.md").read_text()
    assert f"{doctor.MEMORY_GIB} GiB of memory, {doctor.DISK_GIB} GiB of disk" in readme


@pytest.mark.parametrize(("essential", "code"), [(True, 1), (False, 0)])
def test_only_essential_failures_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], essential: bool, code: int
) -> None:
    check = Check(name="x", ok=False, found="y", remedy="z", essential=essential)
    monkeypatch.setattr(doctor, "examine", lambda settings: [check])
    assert doctor.main([]) == code
    assert json.loads(capsys.readouterr().out)["ok"] is not essential


def test_the_command_examines_this_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs.doctor", f"root={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["job"] == "doctor"
    assert done.returncode == (0 if summary["ok"] else 1)
    assert {"python", "memory", "torch, fbgemm, torchrec"} <= {c["name"] for c in summary["checks"]}
