import itertools
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from ray_jobs.engine import plots, report

KS = (10, 50)
NAMES = ("recall", "ndcg", "hit_rate", "mrr", "coverage", "p90_coverage")


def retrieval(**scorers):
    """The tree of `judge_retrieval` for scorers of one level each."""
    return {
        "queries": 20,
        "positives": 60,
        "reachable": 0.95,
        "items": 500,
        "metrics": {s: {f"{n}@{k}": v for n in NAMES for k in KS} for s, v in scorers.items()},
        "intervals": {s: {"recall@10": [v - 0.01, v + 0.01]} for s, v in scorers.items()},
        "slices": [
            {
                "name": "item age",
                "k": 10,
                "labels": ["new", "old <1 & 2>"],
                "positives": [0, 60],
                "recall": {s: [None, v] for s, v in scorers.items()},
            }
        ],
    }


RANKING = {
    "impressions": 1000,
    "actions": {
        "save": {
            "auc": 0.71,
            "log_loss": 0.11,
            "calibration": 1.02,
            "ece": 0.003,
            "positive_rate": None,
            "popularity": {"auc": 0.6},
            "trees": {"auc": 0.725, "log_loss": 0.105, "normalized_entropy": 0.875},
            "reliability": {"predicted": [0.01, 0.1], "actual": [0.02, 0.09], "count": [500, 500]},
        }
    },
}
PHASES = {
    "choose": {
        "steps": 20,
        "best_step": 10,
        "rows": 640,
        "curve": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.5}],
        "validations": [{"step": 10, "recall@10": 0.1}, {"step": 20, "recall@10": 0.09}],
    }
}


@pytest.fixture
def page(tmp_path):
    sections = [
        *report.retrieval_sections(retrieval(model=0.25, popularity=0.05), KS),
        report.ranking_section(RANKING, "the log"),
        report.training_section("two_tower", PHASES),
    ]
    path = tmp_path / "report.html"
    report.write_report(path, "Evaluation of <root>", {"seed": "3"}, sections)
    return path.read_text()


class Balance(HTMLParser):
    """Collects the open tags and what is said."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def test_the_page_is_whole_and_says_what_was_measured(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    said = set(parser.text)
    assert {"0.2500", "0.2400 to 0.2600", "0.0500", "save", "1.0200", "old <1 & 2>", "–"} <= said
    assert "Evaluation of <root>" in said


def test_baselines_stand_below_the_ranker_by_action():
    table = report.ranking_section(RANKING, "the log").tables[0]
    assert [row[:3] for row in table.rows] == [
        ["save", "model", "0.7100"],
        ["save", "popularity", "0.6000"],
        ["save", "trees", "0.7250"],
    ]
    assert table.rows[2][5] == "0.8750"
    assert table.rows[1][5] == "–", "popularity foretells nothing"


def test_the_page_needs_nothing_else(page):
    assert "<script" not in page
    assert 'src="' not in page
    assert page.count("<svg") == 4


def test_values_in_a_slice_stand_in_their_group(page):
    table = report.retrieval_sections(retrieval(model=0.25, item_knn=0.1), KS)[1].tables[0]
    assert list(table.columns) == ["item age", "positives", "model", "item_knn"]
    assert [list(row) for row in table.rows] == [
        ["new", "0", "–", "–"],
        ["old <1 & 2>", "60", "0.2500", "0.1000"],
    ]


def test_the_terminal_shows_the_headlines(capsys):
    sections = report.retrieval_sections(retrieval(model=0.25, oracle_log=0.4), KS)
    report.show(sections)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "oracle_log" in shown.err
    assert "item age" not in shown.err


POINT = {"shares": {"ad": 0.5}, "worth": {"user": 0.1, "ad": 0.2}, "front": False}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.recall_curves(retrieval(model=0.2, oracle_log=0.3)["metrics"], KS),
        lambda: plots.slice_bars(retrieval(model=0.2)["slices"][0]),
        lambda: plots.calibration_curves(RANKING["actions"]),
        lambda: plots.training_curve(PHASES["choose"]),
        lambda: plots.training_curve(PHASES["choose"] | {"validations": []}),
        lambda: plots.trade_off(
            {"trials": [POINT, POINT | {"front": True}], "chosen": POINT, "floors": {"ad": 0.4}},
            "ad",
        ),
        lambda: plots.intervals(
            ["a=1", "a=2"],
            [{"metrics": {"m": {"mean": 0.1, "half_width": None}}}, {"metrics": {}}],
            "m",
        ),
    ],
)
def test_plots_are_svg_and_the_same_each_time(draw):
    text = draw()
    assert ET.fromstring(text).tag.endswith("svg")
    assert text == draw()


def test_a_machine_that_is_slow_to_place_a_legend_warns_of_nothing(monkeypatch):
    seconds = itertools.count(step=10)
    monkeypatch.setattr("matplotlib.legend.time", SimpleNamespace(perf_counter=seconds.__next__))
    plots.calibration_curves(RANKING["actions"])
    assert next(seconds) > 0  # the search was timed
