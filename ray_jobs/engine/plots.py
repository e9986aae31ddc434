"""Plots of the reports, as SVG text: recall curves, slices, calibration, training, trade-offs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Tree = Mapping[str, Any]

COLORS = {
    "model": "#2563eb",
    "item_knn": "#d97706",
    "popularity": "#9ca3af",
    "oracle_log": "#111827",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "homefeed",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def recall_curves(metrics: Mapping[str, Tree], ks: Sequence[int]) -> str:
    """recall@k over k, a line for each scorer."""

    def draw(axes: Axes) -> None:
        for name, values in metrics.items():
            recall = [values[f"recall@{k}"] for k in ks]
            dash = "--" if name.startswith("oracle") else "-"
            axes.plot(ks, recall, dash, marker="o", label=name, color=COLORS.get(name))
        axes.set_xscale("log")
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.minorticks_off()
        axes.set(xlabel="k", ylabel="recall@k", ylim=(0, None))
        legend(axes)

    return svg(draw, (6, 3.6))


def slice_bars(group: Tree) -> str:
    """Recall in each group of a slice, a bar for each scorer."""
    labels = [
        f"{label}\n({n})" for label, n in zip(group["labels"], group["positives"], strict=True)
    ]
    scorers = group["recall"]
    width = 0.8 / len(scorers)

    def draw(axes: Axes) -> None:
        for place, (name, recall) in enumerate(scorers.items()):
            left = [n + (place - (len(scorers) - 1) / 2) * width for n in range(len(labels))]
            heights = [value or 0 for value in recall]
            axes.bar(left, heights, width, label=name, color=COLORS.get(name))
        axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        axes.set(ylabel=f"recall@{group['k']}", title=f"by {group['name']} (number of positives)")
        legend(axes)

    return svg(draw, (8, 3.6))


def calibration_curves(actions: Mapping[str, Tree]) -> str:
    """Predicted against actual rate in bins of equal mass, a line for each action."""

    def draw(axes: Axes) -> None:
        top = 0.0
        for action, values in actions.items():
            curve = values["reliability"]
            axes.plot(curve["predicted"], curve["actual"], marker="o", markersize=3, label=action)
            top = max(top, *curve["predicted"], *curve["actual"], 0.0)
        axes.plot([0, top], [0, top], ":", color="#111827", label="right")
        axes.set(xlabel="predicted", ylabel="actual")
        legend(axes)

    return svg(draw, (5, 3.8))


def training_curve(phase: Tree) -> str:
    """Loss over steps, with the validations beside it."""
    curve, validations = phase["curve"], phase["validations"]

    def draw(axes: Axes) -> None:
        axes.plot(
            [line["step"] for line in curve], [line["loss"] for line in curve], color="#2563eb"
        )
        axes.set(xlabel="step", ylabel="loss")
        if validations:
            _validations(axes, validations)
        axes.axvline(phase["best_step"], color="#9ca3af", linestyle=":")

    return svg(draw, (6, 3.2))


def _validations(axes: Axes, validations: Sequence[Tree]) -> None:
    """A second scale for the first metric of the validations."""
    name = next(key for key in validations[0] if key != "step")
    right = axes.twinx()
    right.grid(visible=False)
    steps = [line["step"] for line in validations]
    right.plot(steps, [line[name] for line in validations], "o-", color="#d97706")
    right.set_ylabel(name, color="#d97706")


def intervals(labels: Sequence[str], rows: Sequence[Tree], metric: str) -> str:
    """A metric of each setting with its interval: over seeds, or of one seed over users."""
    found = [row["metrics"].get(metric) for row in rows]
    place = [n for n, value in enumerate(found) if value]

    def draw(axes: Axes) -> None:
        means = [found[n]["mean"] for n in place]
        widths = [_arms(rows[n], metric) for n in place]
        arms = [list(sides) for sides in zip(*widths, strict=True)]
        axes.errorbar(means, place, xerr=arms or None, fmt="o", color="#2563eb", capsize=3)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel=metric, ylim=(len(labels) - 0.5, -0.5))

    return svg(draw, (8, 1 + 0.35 * len(labels)))


def _arms(row: Tree, metric: str) -> tuple[float, float]:
    """How far an interval reaches below and above the mean."""
    value = row["metrics"][metric]
    if value["half_width"] is None and metric in row.get("intervals", {}):
        low, high = row["intervals"][metric]
        return max(0.0, value["mean"] - low), max(0.0, high - value["mean"])
    return value["half_width"] or 0.0, value["half_width"] or 0.0


def trade_off(found: Tree, party: str) -> str:
    """What the user gives up for a party: all trials, the front, the floor, what was chosen."""
    return svg(lambda axes: _trade_off(axes, found, party), (6, 3.6))


def write_trade_offs(path: Path, found: Tree) -> None:
    """The same of every party with a floor, side by side in one PNG file."""
    parties = list(found["floors"])
    with _figure((5 * len(parties), 3.6)) as figure:
        panels = figure.subplots(1, len(parties), squeeze=False)[0]
        for axes, party in zip(panels, parties, strict=True):
            _trade_off(axes, found, party)
        figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _trade_off(axes: Axes, found: Tree, party: str) -> None:
    rows, chosen = found["trials"], found["chosen"]
    axes.plot(*_against(rows, party), ".", color="#9ca3af", markersize=3, label="tried")
    front = [row for row in rows if row["front"]]
    axes.plot(*_against(front, party), "o", color="#2563eb", markersize=4, label="front")
    axes.plot(*_against([chosen], party), "*", color="#d97706", markersize=12, label="chosen")
    axes.axvline(found["floors"][party], color="#111827", linestyle=":", label="floor")
    axes.set(xlabel=f"{party}, share of its own best", ylabel="worth to the user")
    legend(axes)


def _against(rows: Sequence[Tree], party: str) -> tuple[list[float], list[float]]:
    return [row["shares"][party] for row in rows], [row["worth"]["user"] for row in rows]


def legend(axes: Axes) -> None:
    """A legend where it covers least; said by name, for else a slow search for it warns."""
    axes.legend(loc="best")


def svg(draw: Any, size: tuple[float, float]) -> str:
    """What `draw` puts on axes, as SVG that needs nothing else; `size` in inches."""
    with _figure(size) as figure:
        draw(figure.add_subplot())
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    text = target.getvalue()
    return text[text.index("<svg") :]


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[Figure]:
    """An empty figure, to be drawn and saved in the reports' style; `size` in inches."""
    import matplotlib as mpl  # Not above: a job that draws nothing starts sooner.
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        yield Figure(figsize=size, layout="constrained")
