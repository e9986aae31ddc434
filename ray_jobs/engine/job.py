"""What all jobs share: settings in, stages with time and memory, one JSON object out.

A job is `python -m ray_jobs.<job> [file.yaml] [key=value ...]`. Progress and tables go to stderr;
the last line of stdout is one JSON object, also written to `<root>/summary.json`. Exit codes: 0
done, 1 failed, 2 something that the caller can mend (bad input, bad setting), 130 interrupted, by
Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from data.contract import storage
from data.contract.artifact import (
    POINTER,
    Artifact,
    Draft,
    find,
    point,
    publish,
    version_of,
    write_atomically,
)
from data.contract.passwords import concealed
from data.contract.plain_yaml import dumped
from data.contract.settings import (
    Tree,
    UserError,
    build,
    check_keys,
    help_lines,
    help_table,
    merge,
    read_words,
    read_yaml,
)
from ray_jobs import collect_again
from ray_jobs.engine.cluster import keep_files_here
from ray_jobs.engine.disk import refusal
from ray_jobs.engine.locks import turn
from ray_jobs.engine.memory import PeakMemory
from ray_jobs.engine.plain_json import without_nan
from ray_jobs.engine.quiet import quiet_libraries
from ray_jobs.settings import Settings

REMEMBERED = (
    *("seed", "source", "split", "windows", "world", "prepare"),
    *("id", "graph", "user", "two_tower", "ranker", "corpus"),
)
SETTINGS_FILE = "settings.yaml"
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the drivers of `ray job submit`

console = Console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoArguments:
    """A job without words of its own."""


@dataclass(slots=True)
class Job:
    """One run of a job: its settings, and what it has cost so far.

    Attributes:
        settings: the checked tree.
        arguments: the job's own words (`model=`, `day=` ...).
        root: where all artefacts lie.
        given: explicit settings that later jobs in the root shall start from.
        seconds: wall time of each stage.
        peak_mib: highest memory of the process tree in each stage (PSS).
        made: names of the artefacts that were made, not found up to date.
    """

    settings: Settings
    arguments: Any
    root: Path
    given: Tree = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    _memory: PeakMemory | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announces a stage and records its time and peak memory."""
        console.rule(f"[bold]{name}", align="left")
        started = time.perf_counter()
        with PeakMemory() as memory:
            self._memory = memory
            yield
        self._memory = None
        self.seconds[name] = round(time.perf_counter() - started, 2)
        self.peak_mib[name] = round(memory.peak_mib, 1)
        console.print(f"{name}: {self.seconds[name]} s, peak {self.peak_mib[name]:.0f} MiB")

    def remember(self) -> None:
        """Keeps what was given, once it has led to a data set: a mistake is not remembered."""
        keep(self.root, self.given)

    def make(
        self,
        kind: str,
        parents: Sequence[Artifact],
        settings: Mapping[str, Any],
        write: Callable[[Draft], None],
        move_pointer: bool = True,
    ) -> Artifact:
        """Gives the artefact of these parents and settings, writing it if it is not there yet.

        Of several processes that want it one writes, and the others wait for it.

        Args:
            kind: folder under the root.
            parents: artefacts it is made from.
            settings: what else decides its content (plain JSON values).
            write: fills `draft.path` and `draft.fields`; not called when nothing changed.
            move_pointer: whether `<kind>/CURRENT` shall name it; a pointer never moves back from a
                later day to the day that it was made from.
        """
        references = [parent.reference() for parent in parents]
        version = version_of(references, settings)
        with turn(self.root, f"{kind}-{version}") as confirm:
            artifact = find(self.root, kind, version)
            if artifact is None:
                fields = {"parents": references, "settings": dict(settings)}
                with publish(self.root, kind, version, **fields) as draft, self._measured(draft):
                    draft.confirm = confirm
                    write(draft)
                artifact = find(self.root, kind, version)
                assert artifact is not None
                self.made.append(artifact.manifest.name)
            else:
                console.print(f"{kind}/{version} is up to date")
            if move_pointer and not self._has_later(artifact):
                point(self.root, artifact)
        return artifact

    @contextmanager
    def _measured(self, draft: Draft) -> Iterator[None]:
        """Keeps with an artefact what time and memory it took to make it, within a stage."""
        if self._memory is None:
            yield
            return
        with self._memory.part() as part:
            yield
        draft.fields["seconds"] = round(part.seconds, 2)
        draft.fields["peak_mib"] = round(part.peak_mib, 1)
        draft.fields["phases_mib"] = {name: round(m, 1) for name, m in part.phases_mib.items()}

    def _has_later(self, artifact: Artifact) -> bool:
        """Whether the current artefact of the kind was made from this one: a later day of it."""
        kind = artifact.kind
        named = version = (storage.text(self.root / kind / POINTER) or "").strip()
        while version and version != artifact.version:
            found = find(self.root, kind, version)
            before = (
                [p["version"] for p in found.manifest.parents if p["kind"] == kind] if found else []
            )
            version = before[0] if before else ""
        return version == artifact.version != named


Main = Callable[[Job], Mapping[str, Any]]


def run(name: str, main: Main, arguments: type[Any] = NoArguments, remember: bool = False) -> None:
    """Runs a job from the command line and exits.

    Args:
        name: the job's name, a verb.
        main: does the work; what it returns joins the summary.
        arguments: dataclass of the job's own words.
        remember: whether explicit settings are kept for later jobs in the same root.
    """
    quiet_libraries()
    collect_again()
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        sys.stdout.write(help_text(name, main, arguments) + "\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        job = start(words, arguments, remember)
        finish(job, {"job": name, "root": job.settings.root, **main(job)})
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to finish")
        sys.exit(130)
    except Exception as error:
        said = refusal(error)
        if said is None:
            raise
        fail(said)


def start(words: Sequence[str], arguments: type[Any] = NoArguments, remember: bool = False) -> Job:
    """Builds a job from its words and from what the root remembers. Raises UserError."""
    explicit = read_words(words)
    own = {f.name for f in dataclasses.fields(arguments)}
    check_keys(_both(arguments), explicit)
    given = {k: v for k, v in explicit.items() if k not in own}
    root = storage.mirror(str(given.get("root", Settings.__dataclass_fields__["root"].default)))
    settings = build(Settings, merge(recall(root), given))
    job_arguments = build(arguments, {k: v for k, v in explicit.items() if k in own})
    root = storage.mirror(settings.root)
    refuse_unwritable(settings.root)
    keep_files_here(storage.is_mirrored(root))
    return Job(settings, job_arguments, root, given if remember else {})


def fail(message: str) -> typing.NoReturn:
    """Says what is to be mended, in one line that can be copied, and ends with code 2."""
    said = escape(concealed(message))
    console.print(f"[red]error:[/red] {said}", highlight=False, soft_wrap=True)
    sys.exit(2)


def refuse_unwritable(root: str) -> None:
    """Raises UserError when nothing can be written below a root, before any work."""
    if storage.is_uri(root):
        storage.check(root)
        root = str(storage.mirror(root))
    if SUBMITTED in os.environ and not Path(root).is_absolute():
        raise UserError(
            f"root={root} lies in the working directory of a submitted job, which Ray removes; "
            "name an absolute path that all nodes see, or a URI such as s3://bucket/name"
        )
    path = Path(root).absolute()
    nearest = next(p for p in (path, *path.parents) if os.access(p, os.F_OK))
    if not nearest.is_dir():
        raise UserError(f"root={root} cannot be written: {nearest} is a file; name another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(
            f"root={root} cannot be written: you may not write to {nearest}; name another folder"
        )


def _both(arguments: type[Any]) -> type[Any]:
    """The settings and a job's own words as one class, for one check of the names."""
    hints = typing.get_type_hints(Settings) | typing.get_type_hints(arguments)
    return dataclasses.make_dataclass("Words", list(hints.items()))


def recall(root: Path) -> Tree:
    """The settings that the root remembers from the run that made it."""
    path = root / SETTINGS_FILE
    if not storage.fetch(path, fresh=True):
        return {}
    tree = read_yaml(path)
    said = f"settings remembered in {path}: {json.dumps(tree)}"
    console.print(concealed(said), highlight=False)
    return tree


def keep(root: Path, explicit: Mapping[str, Any]) -> None:
    """Remembers explicit settings of what the artefacts are, for later jobs in this root."""
    path = root / SETTINGS_FILE
    known = read_yaml(path) if path.is_file() else {}
    tree = merge(known, {k: v for k, v in explicit.items() if k in REMEMBERED})
    if tree:
        write_atomically(path, dumped(tree))


def finish(job: Job, summary: Mapping[str, Any]) -> None:
    """Writes the summary to `<root>/summary.json` and to the last line of stdout."""
    taken = {"seconds": job.seconds, "peak_mib": job.peak_mib, "made": job.made}
    line = concealed(json.dumps(without_nan(dict(summary) | taken), allow_nan=False))
    write_atomically(job.root / "summary.json", line + "\n")
    sys.stderr.flush()
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def help_text(name: str, main: Main, arguments: type[Any]) -> str:
    """Usage, the job's own words and every setting with type, default and meaning."""
    command = f"python -m ray_jobs.{name} [file.yaml ...] [key=value ...]"
    usage = f"{command}\n\n{(main.__doc__ or '').strip()}"
    own, lines = len([*help_lines(arguments)]), help_table(arguments, Settings)
    head = ["\nWords of this job:", *lines[:own]] if own else []
    return "\n".join([usage, *head, "\nSettings:", *lines[own:]])
