"""The dashboard asks for what a server tells, and for all of it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.api import create_api
from serve.experiments import Arm, Experiment
from serve.feed import Feed
from serve.settings import ServeSettings
from tests.asgi_client import Client

FILE = Path(__file__).parents[2] / "serve" / "grafana.json"
NAME = re.compile(r"homefeed_\w+")
ROWS = (
    *("Traffic and outcomes", "Latency by stage", "Sources"),
    *("Models and scores", "Store and log", "Versions"),
)


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


@pytest.fixture
def used(root: Path, settings: ServeSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Text of /metrics once all has happened that is counted."""
    trial = Experiment(name="try", arms={"rehearsal": Arm(share=1.0, shadow=True)})
    feed = Feed(root, replace(settings, experiment=trial), background=False)
    client = Client(create_api(feed))
    ask = {"user_id": 3}
    client("POST", "/v1/recommend", json=ask)
    client("POST", "/v1/events", json={**ask, "item_id": 1005, "action": "save"})
    with monkeypatch.context() as patched:
        patched.setattr(feed.store._store, "actions", broken)
        patched.setattr(type(feed._switch.funnel.catalogue), "nearest", broken)
        client("POST", "/v1/recommend", json=ask)
        feed._arms._pool.submit(lambda: None).result(30)
    feed.tick()
    yield client("GET", "/metrics").text
    feed.close()


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken by the test")


def expressions(dashboard: dict[str, Any]) -> list[str]:
    targets = (t for panel in dashboard["panels"] for t in panel.get("targets", ()))
    return [target["expr"] for target in targets]


def asked_for(dashboard: dict[str, Any]) -> set[str]:
    return {name for text in expressions(dashboard) for name in NAME.findall(text)}


def test_every_series_that_it_asks_for_is_told(dashboard: dict[str, Any], used: str) -> None:
    families = list(text_string_to_metric_families(used))
    told = {sample.name for family in families for sample in family.samples}
    assert asked_for(dashboard) - told == set()


def test_every_metric_of_ours_is_on_it(dashboard: dict[str, Any], used: str) -> None:
    endings = ("", "_total", "_bucket", "_count", "_sum")
    asked = asked_for(dashboard)
    families = {family.name for family in text_string_to_metric_families(used)}
    ours = {name for name in families if not name.endswith("_created")}  # when a series began
    assert len(ours) >= 20
    assert {name for name in ours if not asked & {name + ending for ending in endings}} == set()


def test_labels_that_it_groups_by_are_there(dashboard: dict[str, Any], used: str) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(used):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    grouped = re.compile(r"by \(([\w, ]+)\) \((?:rate\()?(homefeed_\w+)")
    found = [pair for text in expressions(dashboard) for pair in grouped.findall(text)]
    assert len(found) >= 15
    for names, series in found:
        assert set(names.split(", ")) <= labels[series], series


def test_its_panels_have_rows_places_and_numbers_of_their_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert tuple(p["title"] for p in panels if p["type"] == "row") == ROWS
    assert len({p["id"] for p in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (p["gridPos"] for p in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = {p["datasource"]["uid"] for p in panels if "datasource" in p}
    assert used == {"${" + name + "}" for name in names}
