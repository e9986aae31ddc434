"""Reports: the same tables on the terminal and, with plots, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable

from ray_jobs.engine import plots

Tree = Mapping[str, Any]

TEMPLATE = Path(__file__).with_name("report.html.j2")
LOG_WIDTH = 120
WHEN = ("before", "after")
RANKING_COLUMNS = {
    "auc": "auc",
    "auc_of_touched": "of touched",
    "log_loss": "log loss",
    "normalized_entropy": "NE",
    "calibration": "calibration",
    "ece": "ece",
    "positive_rate": "positive rate",
}
RANKING_BASELINES = ("popularity", "logistic", "trees")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text.

    Attributes:
        title: what the terminal shows above it.
        columns: names, the first that of the row.
        rows: cells.
        marked: whether the first row stands out.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report.

    Attributes:
        title: heading.
        note: what to know before reading on.
        tables: of these the first is also printed on the terminal, if `printed`.
        plots: functions that draw one plot each, as SVG.
        printed: whether the terminal shows it.
    """

    title: str
    note: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[Callable[[], str]] = ()
    printed: bool = True


def write_report(path: Path, title: str, facts: Tree, sections: Sequence[Section]) -> None:
    """Writes one HTML file that needs nothing else.

    Args:
        path: of the file.
        title: heading of the page.
        facts: name -> text, shown on top.
        sections: in order.
    """
    loader = FileSystemLoader(TEMPLATE.parent)
    template = Environment(loader=loader, autoescape=True).get_template(TEMPLATE.name)
    path.write_text(template.render(title=title, facts=facts, sections=sections))


def show(sections: Sequence[Section]) -> None:
    """Prints the first table and the note of each printed section to stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    for section in sections:
        if section.printed and section.tables:
            console.print(_rich(section.tables[0]))
            console.print(section.note, style="dim", highlight=False)


def _rich(table: Table) -> RichTable:
    found = RichTable(title=table.title, title_justify="left", box=SIMPLE)
    for place, name in enumerate(table.columns):
        found.add_column(name, justify="right" if place else "left", overflow="fold")
    for place, row in enumerate(table.rows):
        found.add_row(*row, style="bold" if table.marked and place == 0 else None)
    return found


def number(value: float | None) -> str:
    """Four digits; a dash for what is undefined."""
    return "–" if value is None else f"{value:.4f}"


def retrieval_sections(retrieval: Tree, ks: Sequence[int]) -> list[Section]:
    """Retrieval beside its baselines, and its slices, from `judge_retrieval`."""
    note = (
        f"{retrieval['queries']} users, {retrieval['positives']} positives "
        f"({100 * retrieval['reachable']:.1f}% of them were in the catalogue when asked), "
        f"{retrieval['items']} items, all ranked but for those the user had touched. "
        "95%: bootstrap interval over users."
    )
    curves = partial(plots.recall_curves, retrieval["metrics"], ks)
    overall = [_headline(retrieval, ks[0]), *_by_metric(retrieval, ks)]
    groups = retrieval["slices"]
    return [
        Section(title="Retrieval", note=note, tables=overall, plots=[curves]),
        Section(
            title="Slices",
            note="Pooled over users: a positive counts once, whoever's it is.",
            tables=[_slice_table(group) for group in groups],
            plots=[partial(plots.slice_bars, group) for group in groups],
            printed=False,
        ),
    ]


def _headline(retrieval: Tree, k: int) -> Table:
    """The metrics at the first cut-off, the interval of the recall beside it."""
    recall, *others = (f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate", "coverage"))
    rows = []
    for scorer, metrics in retrieval["metrics"].items():
        low, high = retrieval["intervals"][scorer][recall]
        interval = f"{number(low)} to {number(high)}"
        rows.append(
            [scorer, number(metrics[recall]), interval, *(number(metrics[n]) for n in others)]
        )
    columns = ["", recall, "95%", *others]
    return Table(title="Retrieval", columns=columns, rows=rows, marked=True)


def _by_metric(retrieval: Tree, ks: Sequence[int]) -> list[Table]:
    metrics = retrieval["metrics"]
    names = list(dict.fromkeys(key.split("@")[0] for key in next(iter(metrics.values()))))
    return [
        Table(
            title=name,
            columns=[name, *(f"@{k}" for k in ks)],
            rows=[[s, *(number(v[f"{name}@{k}"]) for k in ks)] for s, v in metrics.items()],
            marked=True,
        )
        for name in names
    ]


def _slice_table(group: Tree) -> Table:
    recall = group["recall"]
    lines = zip(group["labels"], group["positives"], *recall.values(), strict=True)
    return Table(
        title=f"recall@{group['k']} by {group['name']}",
        columns=[group["name"], "positives", *recall],
        rows=[[label, str(count), *map(number, values)] for label, count, *values in lines],
    )


def ranking_section(ranking: Tree, made_from: str) -> Section:
    """Predictions on impressions beside those of the baselines, from `evaluate`."""
    note = (
        f"{ranking['impressions']} impressions of the reported part, from {made_from}; the "
        f"baselines have learnt from {ranking.get('baselines_rows', 0)} of the ranker's. "
        "NE: log loss over that of the share of positives; of touched: AUC among impressions that "
        "any action followed."
    )
    columns = ["action", "by", *RANKING_COLUMNS.values()]
    return Section(
        title="Ranking",
        note=note,
        tables=[Table(title="Ranking", columns=columns, rows=_ranking_rows(ranking["actions"]))],
        plots=[partial(plots.calibration_curves, ranking["actions"])],
    )


def calibration_section(calibration: Tree) -> Section:
    """What the calibrators do, from `judge_calibration`."""
    actions = [
        [action, *(number(found[name][key]) for key in ("ece", "calibration") for name in found)]
        for action, found in calibration["actions"].items()
    ]
    names = list(calibration["actions"])
    segments = [
        [group["name"], group["label"], str(group["impressions"])]
        + [number(group["calibration"][action][when]) for action in names for when in WHEN]
        for group in calibration["segments"]
    ]
    columns = ["segment", "", "impressions", *(f"{a} {when}" for a in names for when in WHEN)]
    return Section(
        title="Calibration",
        note="Before: the ranker's own probabilities; after: calibrated on days of their own. "
        "Calibration is the sum of the probabilities / the number of actions: 1 is right.",
        tables=[
            Table(
                title="Calibration",
                columns=["action", *(f"{key} {when}" for key in ("ECE", "ratio") for when in WHEN)],
                rows=actions,
            ),
            Table(title="Calibration by segment", columns=columns, rows=segments),
        ],
        printed=False,
    )


def _ranking_rows(actions: Tree) -> list[list[str]]:
    return [
        [action, by, *(number(metrics.get(column)) for column in RANKING_COLUMNS)]
        for action, found in actions.items()
        for by, metrics in [
            ("model", found),
            *((name, found[name]) for name in RANKING_BASELINES if name in found),
        ]
    ]


def graph_section(graph: Tree) -> Section:
    """The spread of the space of items, from `graph_evaluation.spread`."""
    rows = [[str(graph["items"]), number(graph["cosine_kurtosis"])]]
    return Section(
        title="Space of the items",
        note="Excess kurtosis of the cosines of random pairs: low where items fill their space "
        "(PinSage reports .43, and 1.20 and 2.49 for visual and text vectors). The row last_item "
        "above ranks by the item engaged with last: hit rate and MRR of item to item.",
        tables=[Table(title="Space", columns=["items", "kurtosis"], rows=rows)],
    )


def user_section(user: Tree) -> Section:
    """How fresh a vector must be, from `user_evaluation.refresh_and_actions`."""
    found = f"found in {user['k']}"
    cadence, actions = (
        Table(
            title=title,
            columns=[column, found],
            rows=[[name, number(value)] for name, value in user[by].items()],
        )
        for title, column, by in (
            ("Refresh", "vector as of", "by_cadence"),
            ("Actions", "action", "by_action"),
        )
    )
    return Section(
        title="Age of the vector",
        note=f"Every positive of {user['users']} users, asked for one by one: from a vector as of "
        "the start of the reported part (once; the actions too), of the midnight before (daily), "
        "of the moment (realtime). Mean over users of the share that is found.",
        tables=[cadence, actions],
    )


def training_section(model: str, phases: Tree) -> Section:
    """Loss and validations of each phase of a training run."""
    rows = [
        [name, str(p["steps"]), str(p["best_step"]), str(p["rows"])] for name, p in phases.items()
    ]
    return Section(
        title=f"Training of {model}",
        note="Dotted: the step that was kept.",
        tables=[Table(title="", columns=["phase", "steps", "best step", "rows"], rows=rows)],
        plots=[partial(plots.training_curve, p) for p in phases.values() if p["curve"]],
        printed=False,
    )
