"""The report of a balance between the user and other parties: tables, and a plot for each floor."""

from __future__ import annotations

from functools import partial
from typing import Any

from ray_jobs.engine import plots
from ray_jobs.engine.report import Section, Table, number

Tree = dict[str, Any]

USER = "user"
FRONT_ROWS = 25


def sections(found: Tree) -> list[Section]:
    """What was chosen, how its floors hold, and the Pareto front, from `balance.json`."""
    return [_choice(found), _check(found), _front(found)]


def _choice(found: Tree) -> Section:
    """The weights in force before and those chosen, on the validation days."""
    rows = [_cells(name, found[name]) for name in ("before", "chosen")]
    note = (
        f"Mean worth of the {found['top']} items shown, expected by the ranker, over "
        f"{found['requests']['valid']} requests of the validation days. "
        f"{len(found['trials'])} points: weights tried, and the best of them, refined."
    )
    table = Table(title="Balance", columns=["", *_columns(found["chosen"])], rows=rows)
    draw = [partial(plots.trade_off, found, party) for party in found["floors"]]
    return Section(title="Balance", note=note, tables=[table], plots=draw)


def _check(found: Tree) -> Section:
    rows = [
        [name, number(v["floor"]), number(v["share"]), between(v), v["verdict"]]
        for name, v in found["held_out"]["floors"].items()
    ]
    user = found["held_out"][USER]
    note = (
        f"{found['requests']['test']} requests of the reported days, which had no part in the "
        f"choice. 95%: paired bootstrap over users. Worth to the user {number(user['before'])} "
        f"before, {number(user['after'])} after, difference {between(user)}."
    )
    columns = ["party", "floor", "share of its own best", "95%", "verdict"]
    table = Table(title="Floors on the reported days", columns=columns, rows=rows)
    return Section(title="Floors on the reported days", note=note, tables=[table])


def between(values: Tree) -> str:
    """An interval in words."""
    return f"{number(values['low'])} to {number(values['high'])}"


def _front(found: Tree) -> Section:
    """The Pareto front, thinned; trials.csv has all of it."""
    front = sorted((r for r in found["trials"] if r["front"]), key=lambda r: -r["worth"][USER])
    thinned = front[:: -(-len(front) // FRONT_ROWS)]
    rows = [_cells(str(n), row) for n, row in enumerate(thinned, start=1)]
    table = Table(title="Front", columns=["", *_columns(found["chosen"])], rows=rows)
    note = f"{len(front)} trials that no other betters for all at once."
    return Section(title="Pareto front", note=note, tables=[table], printed=False)


def _columns(row: Tree) -> list[str]:
    weights = [f"weight of {name}" for name in row["weights"]]
    return [*weights, *(f"worth to {name}" for name in row["worth"]), *map(_share, row["shares"])]


def _share(name: str) -> str:
    return f"{name} of its best"


def _cells(name: str, row: Tree) -> list[str]:
    values = (*row["weights"].values(), *row["worth"].values(), *row["shares"].values())
    return [name, *map(number, values)]
