"""Tells whether this machine can run homefeed, and what mends it where it cannot.

    make doctor
    python -m ray_jobs.doctor root=runs/default ports=[8000,8265]
    python -m ray_jobs.doctor root=s3://bucket/name

Depends on little, so that it still speaks when torch, Ray or an index library does not load: what
may crash on import is tried in a process of its own. Exit codes: 0 fit (there may be advice), 1 an
essential check fails, 2 bad arguments.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.contract.passwords import concealed
from data.contract.settings import UserError, help_table, load
from ray_jobs import collect_again
from ray_jobs.engine.container import free_memory

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
GIB = 1 << 30
MEMORY_GIB = 4
DISK_GIB = 5
SHARED_MEMORY_GIB = 1
FULL_PERCENT = 95  # Ray stops writing objects to a disk that is fuller.
OTHER_ROOT = "root=<folder> (make: ROOT=<folder>)"
REINSTALL = "rm -r .venv && make setup"
PIN = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?==(?P<version>[\w.]+)")
TRIPLE = """
import fbgemm_gpu, torch, torchrec
offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))
ids = torchrec.KeyedJaggedTensor(["id"], torch.arange(3), lengths=torch.tensor([1, 2]))
assert offsets.tolist() == ids.offsets().tolist() == [0, 1, 3]
print("torch", torch.__version__, "with", torch.cuda.device_count(), "CUDA devices")
"""
MIRROR = """
from data.contract import mirrors
print(mirrors.base())
"""
STORAGE = """
import sys, uuid
from data.contract import storage
from data.contract.settings import UserError
file = storage.mirror(sys.argv[1]) / f".doctor-{uuid.uuid4().hex}"
try:
    storage.check(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("put by ray_jobs.doctor, which removes it")
    storage.put(file)
    storage.remove(file)
except UserError as error:
    sys.exit(" ".join(str(error).split()))
finally:
    file.unlink(missing_ok=True)
print("answers, and can be written")
"""

Port = Annotated[int, Field(ge=1, le=65535)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings:
    """What to examine.

    Attributes:
        root: folder, or URI of the object storage, that runs write to.
        ports: TCP ports of HTTP and of Ray's dashboard.
    """

    root: str = "runs/default"
    ports: tuple[Port, ...] = (8000, 8265)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Attributes:
        name: what was examined.
        ok: whether it is as it should be.
        found: what is there, with units.
        remedy: what mends it; shown when not ok.
        essential: whether nothing works without it.
    """

    name: str
    ok: bool
    found: str
    remedy: str
    essential: bool = True


def check_python(project: Path) -> Check:
    """Compares the interpreter with `requires-python` of a pyproject file."""
    least = tomllib.loads(project.read_text())["project"]["requires-python"].removeprefix(">=")
    wanted = tuple(int(part) for part in least.split("."))
    return Check(
        name="python",
        ok=sys.version_info[:2] >= wanted,
        found=".".join(map(str, sys.version_info[:3])),
        remedy=f"install Python {least} or newer; rm -r .venv && make setup PYTHON=<its path>",
    )


def installed_version(name: str) -> str:
    """Version of a distribution without its local part (2.13.0 for 2.13.0+cpu), "" if absent."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def read_pins(project: Path, build: str) -> dict[str, str]:
    """Distribution → version that a pyproject file pins for running on a build (cpu or gpu)."""
    table = tomllib.loads(project.read_text())["project"]
    extras = table["optional-dependencies"]
    lines = [*table["dependencies"], *extras[build], *extras["torchrec"]]
    return {match["name"]: match["version"] for match in map(PIN.fullmatch, lines) if match}


def check_packages(project: Path) -> Iterator[Check]:
    """Compares what is installed with the pins: one line if all agree, else one a difference."""
    build = "gpu" if installed_version("fbgemm-gpu") else "cpu"
    pins = read_pins(project, build)
    wrong = [name for name, version in pins.items() if installed_version(name) != version]
    if not wrong:
        yield Check(name="packages", ok=True, found=f"{len(pins)} as pinned ({build})", remedy="")
    for name in wrong:
        found = installed_version(name) or "absent"
        yield Check(name=name, ok=False, found=f"{found}, pinned {pins[name]}", remedy=REINSTALL)


def check_triple(timeout_s: float = 300) -> Check:
    """Loads torch, fbgemm and torchrec together, where a mismatch of builds can do no harm."""
    ok, found = try_apart(TRIPLE, timeout_s=timeout_s)
    remedy = f"the three come in matching builds only: {REINSTALL} (GPU=1 for CUDA)"
    return Check(name="torch, fbgemm, torchrec", ok=ok, found=found, remedy=remedy)


def try_apart(program: str, *words: str, timeout_s: float) -> tuple[bool, str]:
    """Runs a Python program in a process of its own: whether it ends well, and its last line."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=PROJECT.parent,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        ok, output = done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr)
    except subprocess.TimeoutExpired:
        ok, output = False, f"took longer than {timeout_s:g} s"
    return ok, output.strip().rpartition("\n")[2] or "the process crashed"


def check_memory() -> Check:
    """Whether the default run fits into memory."""
    free = free_memory()
    remedy = (
        f"the default run takes up to {MEMORY_GIB} GiB: end other programs, or world.preset=tiny"
    )
    ok = free >= MEMORY_GIB * GIB
    return Check(name="memory", ok=ok, found=gib(free), remedy=remedy, essential=False)


def check_shared_memory(path: Path = Path("/dev/shm")) -> Check:
    """Whether Ray's object store finds shared memory; it falls back to disk, slowly."""
    free = shutil.disk_usage(path).free if path.is_dir() else 0
    remedy = f"give the container more: docker run --shm-size={4 * SHARED_MEMORY_GIB}g"
    ok = free >= SHARED_MEMORY_GIB * GIB or sys.platform != "linux"
    return Check(name=str(path), ok=ok, found=gib(free), remedy=remedy, essential=False)


def check_disk(name: str, folder: Path, remedy: str) -> Check:
    """Whether the disk of a folder has room for a run and for Ray."""
    usage = shutil.disk_usage(nearest_existing(folder))
    percent = 100 - 100 * usage.free // usage.total
    ok = usage.free >= DISK_GIB * GIB and percent < FULL_PERCENT
    found = f"{gib(usage.free)}, {percent}% used"
    return Check(name=name, ok=ok, found=found, remedy=remedy)


def check_root(root: Path, name: str = "root", other: str = OTHER_ROOT) -> Check:
    """Whether runs can write where they shall, tried in the nearest folder that exists."""
    folder = nearest_existing(root)
    try:
        with tempfile.TemporaryFile(dir=folder):
            ok, found = True, f"{folder} can be written"
    except OSError as error:
        ok, found = False, f"{folder}: {error.strerror}"
    remedy = f"name a folder that you may write to: {other}"
    return Check(name=f"{name} {root}", ok=ok, found=found, remedy=remedy)


def check_places(root: str) -> Iterator[Check]:
    """Room and leave to write: below a root, or in its storage and this machine's mirror of it."""
    if "://" not in root:
        yield check_disk("disk of root", Path(root), "free space, or root=<folder on another disk>")
        yield check_root(Path(root))
        return
    ok, found = try_apart(MIRROR, timeout_s=60)
    if not ok:
        yield Check(name=f"root {root}", ok=False, found=found, remedy=REINSTALL)
        return
    disk = "free space, or HOMEFEED_MIRROR=<folder on another disk>"
    yield check_disk("disk of the mirror", Path(found), disk)
    yield check_root(Path(found), "mirror", "HOMEFEED_MIRROR=<folder>")
    yield check_storage(root)


def check_storage(root: str, timeout_s: float = 60) -> Check:
    """Whether an object storage answers and can be written: a small object is put and removed."""
    ok, found = try_apart(STORAGE, root, timeout_s=timeout_s)
    remedy = "set the storage's own variables: credentials, region, endpoint (AWS_ENDPOINT_URL ...)"
    return Check(name=f"root {root}", ok=ok, found=found, remedy=remedy)


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the closest of its parents that is there."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def check_port(port: int) -> Check:
    """Whether a server could listen on a port of loopback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            ok = True
        except OSError:
            ok = False
    remedy = f"something listens there: end it, or choose another (lsof -i :{port} names it)"
    found = "free" if ok else "in use"
    return Check(name=f"port {port}", ok=ok, found=found, remedy=remedy, essential=False)


def gib(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / GIB:.1f} GiB free"


def examine(settings: DoctorSettings) -> Iterator[Check]:
    """All checks, cheapest first."""
    temporary = Path(tempfile.gettempdir())
    yield check_python(PROJECT)
    yield from check_packages(PROJECT)
    yield check_memory()
    yield check_shared_memory()
    yield check_disk("disk of Ray", temporary, "free space, or RAY_TMPDIR=<short path elsewhere>")
    yield from check_places(settings.root)
    yield from map(check_port, settings.ports)
    yield check_triple()


def show(checks: Sequence[Check], console: Console) -> None:
    """Prints the findings, and the remedy of each that is not ok."""
    table = Table("", "check", "found", "remedy")
    for check in checks:
        mark = (
            "[green]ok[/]"
            if check.ok
            else "[red]fails[/]"
            if check.essential
            else "[yellow]mind[/]"
        )
        remedy = "" if check.ok else check.remedy
        table.add_row(
            mark, *(escape(concealed(word)) for word in (check.name, check.found, remedy))
        )
    console.print(table)


def main(words: Sequence[str]) -> int:
    """Examines, reports, and returns the exit code."""
    collect_again()
    console = Console(stderr=True)
    if {"--help", "-h"} & set(words):
        sys.stdout.write("\n".join([(__doc__ or "").strip(), "", *help_table(DoctorSettings), ""]))
        return 0
    try:
        settings = load(DoctorSettings, words)
    except UserError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        return 2
    checks = list(examine(settings))
    show(checks, console)
    ok = all(check.ok for check in checks if check.essential)
    summary = {"job": "doctor", "ok": ok, "checks": [asdict(check) for check in checks]}
    sys.stdout.write(concealed(json.dumps(summary)) + "\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
