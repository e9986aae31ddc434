"""What a log of some size will take: `python -m ray_jobs.plan users=[1000000,1000000000]`.

Lines are drawn through runs of at least two sizes: those of your own log that measured= names, a
tenth and a quarter of its users say, else those that come with homefeed, which have neither columns
nor impressions. The smaller should have ten million events: with fewer, the buffers of streamed
stages are not full yet, and lines come out too steep. The table tells sizes of tables, graph, index
and store, memory and time to make each artefact, hosts and the cost of a day; `check=<root>`
compares the lines with a larger run. Hosts share work, where train.num_workers and prepare.workers
give them some, but seldom memory: what does not fit one host is told with the way out (`fits`,
`why`), and such a plan has no cost. Exit codes: 0 done, 2 bad arguments.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.contract import storage
from data.contract.artifact import MANIFEST, is_whole
from data.contract.settings import Count, Finite, UserError, help_table, load
from ray_jobs import collect_again
from ray_jobs.engine.cluster import num_cores
from ray_jobs.planning.growth import Growth, Needs
from ray_jobs.planning.hosts import GIB, Host, Plan, Traffic, on_one_host, planned, stored_gib
from ray_jobs.planning.measured import MADE, Measured, Sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

FULL = 9_900_000  # events, with which the buffers of streamed stages are full; ten million or so
OURS = Path(__file__).resolve().parent / "planning" / "measured.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What to plan for.

    Attributes:
        users: of each log.
        items: of each log; as many as users where there are none.
        events_per_user: that are kept, those of traffic.log_days; the store has the newest.
        measured: finished roots of at least two sizes of a log, or their URIs; what a training took
            before it was taken up again is not told by them.
        check: a larger root, or its URI, with which the lines are compared.
        cores: of the machine on which the roots of measured= were made; by default this one's.
        hours: that the daily loop may take.
        host: what is rented.
        traffic: what is asked of the servers.
    """

    users: tuple[Count, ...] = (1_000_000, 100_000_000, 1_000_000_000)
    items: tuple[Count, ...] = ()
    events_per_user: Finite = 200.0
    measured: tuple[str, ...] = ()
    check: str | None = None
    cores: Count | None = None
    hours: Finite = 8.0
    host: Host = field(default_factory=Host)
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        if not self.users:
            raise ValueError("users= needs a number of users at least, users=[1000000]")
        if self.cores and not self.measured:
            raise ValueError(
                "cores= tells of the machine that made the roots of measured=: name them"
            )
        if self.items and len(self.items) != len(self.users):
            raise ValueError(f"items= needs {len(self.users)} numbers, one for each of users=")


def runs_of(settings: PlanSettings) -> list[Measured]:
    """The runs that lines are drawn through. Raises UserError."""
    cores = settings.cores or num_cores()
    if settings.measured:
        return [run_of(root, cores) for root in settings.measured]
    ours = [Measured.read(tree) for tree in json.loads(OURS.read_text())]
    return [run for run in ours if run.sizes.events >= FULL]


def run_of(root: str, cores: int) -> Measured:
    """The run that made a root. Of a URI all artefacts that tell what they took are brought here.

    Raises:
        UserError: it has not finished, or its storage does not answer.
    """
    folder = storage.mirror(root)
    for kind in MADE if storage.is_mirrored(folder) else ():
        for manifest, _ in storage.changes(folder / kind, MANIFEST):
            is_whole(folder / kind / Path(manifest).parent.name)
    return Measured.of(folder, cores)


def warn_of_small(runs: Sequence[Measured], console: Console) -> None:
    """Says which runs are too small to draw lines through."""
    for run in runs:
        if run.sizes.events < FULL:
            console.print(
                f"[yellow]warning:[/] lines through a run of {run.sizes.events:,} events come out "
                "too steep, for streamed stages do not fill their buffers: 10,000,000 do"
            )


def logs_of(settings: PlanSettings) -> list[Sizes]:
    """The logs that are planned for."""
    items = settings.items or settings.users
    return [
        Sizes(users=users, items=count, events=round(users * settings.events_per_user))
        for users, count in zip(settings.users, items, strict=True)
    ]


def compared(growth: Growth, run: Measured) -> dict[str, Any]:
    """Memory as predicted and measured, by kind, and the largest. Raises UserError."""
    needs, measured = growth.at(run.sizes), run.peak_mib
    kinds = [kind for kind in needs.peak_mib if kind in measured]
    if not kinds:
        raise UserError("check= and the runs tell memory of nothing in common")
    pairs = {kind: (needs.peak_mib[kind], measured[kind]) for kind in kinds}
    pairs["largest"] = (max(p for p, _ in pairs.values()), max(m for _, m in pairs.values()))
    return {
        kind: {"predicted_mib": p, "measured_mib": m, "error": p / m - 1}
        for kind, (p, m) in pairs.items()
    }


def told(needs: Needs, plan: Plan, traffic: Traffic) -> dict[str, Any]:
    """All that is said of a log."""
    return {
        **asdict(needs.sizes),
        "gib": {name: size / GIB for name, size in needs.bytes.items()}
        | {"store": stored_gib(needs, traffic, plan.store)},
        "on_one_host": on_one_host(needs),
        "peak_gib": {name: mib / 1024 for name, mib in needs.peak_mib.items()},
        "hours": {name: seconds / 3600 for name, seconds in needs.seconds.items()},
        **asdict(plan),
    }


def show(logs: Sequence[dict[str, Any]], cores: int, console: Console) -> None:
    """Prints a column for each log."""
    table = Table("", *(f"{log['users']:,} users" for log in logs), title="What a log takes")
    table.add_row("items", *(f"{log['items']:,}" for log in logs))
    table.add_row("events", *(f"{log['events']:,}" for log in logs), end_section=True)
    place = {True: "GiB on one host", False: "GiB over hosts"}
    units = {
        "gib": dict.fromkeys(logs[0]["gib"], "GiB"),
        "peak_gib": {name: place[one] for name, one in logs[0]["on_one_host"].items()},
        "hours": dict.fromkeys(logs[0]["hours"], f"h on {cores} cores"),
    }
    for part, names in units.items():
        for name, unit in names.items():
            table.add_row(f"{name}, {unit}", *(f"{log[part][name]:,.2f}" for log in logs))
        table.add_section()
    for name in ("train_hosts", "loop_hours", "serve_hosts", "store_hosts", "cost"):
        table.add_row(name.replace("_", " "), *(written(log[name]) for log in logs))
    table.add_row("store", *(store_of(log) for log in logs))
    table.add_row("fits such hosts", *("yes" if log["fits"] else "no" for log in logs))
    console.print(table)
    for log in logs:
        for reason in log["why"]:
            console.print(f"[red]{log['users']:,} users:[/] {escape(reason)}", soft_wrap=True)


def written(value: float | None) -> str:
    """A figure as the table has it."""
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def store_of(log: dict[str, Any]) -> str:
    """Where posted events are kept, and what a local store has to be allowed for it."""
    size = f", serve.store_gib={max(1, math.ceil(log['gib']['store']))}"
    return str(log["store"]) + (size if log["store"] == "local" else "")


def tell_missing(growth: Growth, console: Console) -> None:
    """Prints what the table leaves out, for not all runs have made it."""
    parts = {"hours": "hours and cost", "peak_gib": "memory", "gib": "disk"}
    for part, missing in growth.not_measured.items():
        if missing:
            console.print(
                f"[yellow]not counted[/] in {parts[part]}, for not all runs tell it apart: "
                f"{', '.join(missing)}"
            )


def show_check(check: dict[str, Any], console: Console) -> None:
    """Prints how far the lines were off."""
    table = Table("to make", "predicted MiB", "measured MiB", "off", title="Memory")
    for kind, one in check.items():
        off = f"{one['error']:+.1%}"
        table.add_row(kind, f"{one['predicted_mib']:,.0f}", f"{one['measured_mib']:,.0f}", off)
    console.print(table)


def main(words: Sequence[str]) -> int:
    """Plans, prints, and returns the exit code."""
    collect_again()
    console = Console(stderr=True)
    if {"--help", "-h"} & set(words):
        sys.stdout.write("\n".join([(__doc__ or "").strip(), "", *help_table(PlanSettings), ""]))
        return 0
    try:
        settings = load(PlanSettings, words)
        runs = runs_of(settings)
        growth = Growth.of(runs)
        warn_of_small(runs, console)
        check = settings.check and compared(growth, run_of(settings.check, growth.cores))
    except UserError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        return 2
    logs = []
    for sizes in logs_of(settings):
        needs = growth.at(sizes)
        plan = planned(needs, growth.cores, settings.host, settings.traffic, settings.hours)
        logs.append(told(needs, plan, settings.traffic))
    show(logs, growth.cores, console)
    tell_missing(growth, console)
    if check:
        show_check(check, console)
    summary = {"job": "plan", "measured": [asdict(run.sizes) for run in runs], "logs": logs}
    told_too = {"not_measured": growth.not_measured, "check": check}
    sys.stdout.write(json.dumps(summary | told_too) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
