"""Runs a logged request again: `python -m ray_jobs.replay root=... request_id=...`.

The user's history is the one that was logged with the request; all else comes from the bundle that
answered, or from another, `bundle=`. Told is whether the same features, scores and feed come out,
and of each item, or of `item_id=`, why it is not in the feed.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from rich.table import Table

from data.contract import storage
from data.contract.encode import Events
from data.contract.settings import UserError
from ray_jobs.engine.job import console, run
from ray_jobs.preparation.posted_log import PostedLog
from serve.arms import changed
from serve.bundle import KIND, Bundle
from serve.fanout import Fanout
from serve.funnel import Funnel
from serve.messages import Context
from serve.query import Query, unwanted
from serve.request_log import FOLDER, HISTORY
from serve.stages import Trace
from serve.stores import open_store
from serve.utility import Utility
from serve.utility_file import in_force

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_jobs.engine.job import Job
    from serve.funnel import Slate
    from serve.settings import ServeSettings
    from serve.store import Store
    from serve.users import User

NOT_FOUND = "not_retrieved"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayArguments:
    """Words of the job.

    Attributes:
        request_id: of the logged request.
        bundle: version that answers; the one that did, by default.
        item_id: an item whose way through the funnel is told.
    """

    request_id: int
    bundle: str | None = None
    item_id: int | str | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """A request as it was logged.

    Attributes:
        request: its row of features.
        shown: its rows of impressions, by place.
    """

    request: dict[str, Any]
    shown: pa.Table

    @classmethod
    def find(cls, root: Path, request_id: int) -> Logged:
        """Looks through the request log. Raises UserError where the request is not there."""
        tables = {}
        storage.update(root / FOLDER)
        for kind in ("features", "impressions"):
            folder = root / FOLDER / kind
            if not folder.is_dir():
                uri = storage.uri_of(root)
                raise UserError(f"{uri} has no request log; serve it with serve.log_requests=true")
            log = ds.dataset(folder, format="parquet")
            tables[kind] = log.to_table(filter=ds.field("request_id") == request_id)
        if not tables["features"].num_rows:
            raise UserError(f"request_id={request_id} is not in {root / FOLDER}")
        return cls(tables["features"].to_pylist()[0], tables["impressions"].sort_by("position"))

    @property
    def versions(self) -> dict[str, str]:
        """What answered."""
        found: dict[str, str] = json.loads(self.request["versions"])
        return found

    def predictions(self, actions: tuple[str, ...]) -> Any:
        """Probabilities as they were answered, [N, A]; NaN where nothing was ranked."""
        columns = [self.shown[f"prediction.{action}"].to_numpy() for action in actions]
        return np.stack(columns, axis=1)


def main(job: Job) -> dict[str, Any]:
    """Replays a request of the log, by the bundle that answered it or by another."""
    arguments: ReplayArguments = job.arguments
    logged = Logged.find(job.root, arguments.request_id)
    version = arguments.bundle or logged.versions["bundle"]
    bundle = Bundle.open(job.root / KIND / version)
    settings = settings_of(job, logged)
    with open_store(job.root, settings) as store, funnel_of(settings, bundle, store) as funnel:
        user = user_then(logged, funnel, PostedLog(job.root, store), settings.max_actions)
        query, trace = query_of(logged, funnel, user), Trace()
        scores = scores_of(logged, funnel, query)
        slate = funnel.slate(query, logged.shown.num_rows, trace)
        items = told(logged, funnel, slate, scores)
        same = version == logged.versions["bundle"]
        summary = {
            "request_id": arguments.request_id,
            "bundle": version,
            "features_equal": features_equal(logged, funnel, user) if same else None,
            "utility_equal": logged.versions.get("utility") == funnel.utility.version,
            "largest_difference": largest(logged, funnel, scores),
            "same_feed": [row["item_id"] for row in items] == funnel.catalogue.external(slate.rows),
            "items": items,
            "feed": funnel.catalogue.external(slate.rows),
            "dropped": trace.drops,
        }
        if arguments.item_id is not None:
            summary["why"] = why(arguments.item_id, funnel, slate, trace)
    show(summary)
    return summary


def settings_of(job: Job, logged: Logged) -> ServeSettings:
    """What a server would answer by now: with `utility.json`, and with what the arm changes.

    Raises:
        UserError: the file or the arm has what there is not.
    """
    settings = job.settings.serve
    settings = replace(settings, utility=in_force(job.root, settings.utility))
    arm = settings.experiment.arms.get(logged.shown["arm"][0].as_py())
    return settings if arm is None or arm.shadow else changed(settings, arm.settings)


@contextmanager
def funnel_of(settings: ServeSettings, bundle: Bundle, store: Store) -> Iterator[Funnel]:
    """A funnel of its own, with time to spare."""
    fanout = Fanout(settings.threads, settings.queue)
    utility = Utility.of(settings.utility, bundle.vocabulary)
    try:
        funnel = Funnel(bundle, store, fanout, settings, utility)
        funnel.catalogue.take_posted(store)
        yield funnel
    finally:
        fanout.close()


def query_of(logged: Logged, funnel: Funnel, known: User) -> Query:
    """The request, of a user as known then, with the history that was logged."""
    request, catalogue = logged.request, funnel.catalogue
    columns = {name: history_of(request, name) for name in HISTORY}
    item = columns["item"]
    named = [at for at, known in enumerate(request["history.item_id"]) if known is not None]
    item[named] = catalogue.rows_of([request["history.item_id"][at] for at in named])
    logged_events = Events(np.array([0, len(item)]), **columns)
    user = replace(known, events=with_newest(known.events, logged_events))
    context = Context.model_validate_json(request["context"])
    about = catalogue.rows_of([] if context.item_id is None else [context.item_id])
    excluded = catalogue.rows_of(request["excluded_item_id"])
    exclude = unwanted(catalogue, known.seen, excluded, about)
    return Query(user, context, request["surface"], about, excluded, exclude, funnel._tower)


def history_of(request: dict[str, Any], name: str) -> Any:
    """A column of the history that was used; zeros where an earlier release did not log it."""
    values = request.get(f"history.{name}")
    nothing = [0] * len(request["history.item"])
    return np.array(nothing if values is None else values, HISTORY[name].to_pandas_dtype())


def with_newest(events: Events, newest: Events) -> Events:
    """One user's events, the newest of which are replaced by others."""
    older = max(len(events.item) - len(newest.item), 0)
    before = events.at(slice(older), np.array([0, older]))
    both = Events.join([before, newest])
    return both.at(slice(None), np.array([0, len(both.item)]))


def user_then(logged: Logged, funnel: Funnel, posted: PostedLog, max_actions: int) -> User:
    """The user by the bundle and by what had been posted when the request came."""
    user_id, now_ms = logged.request["user_id"], logged.request["now_ms"]
    actions = posted.actions(user_id, funnel.bundle.store_sequence)
    then = [event for event in actions if event["received_at"] <= now_ms]
    return funnel.users.with_posted(user_id, then[-max_actions:], now_ms)


def scores_of(logged: Logged, funnel: Funnel, query: Query) -> Any:
    """Probabilities of the items that were shown, [N, A]; [N, 0] without a ranker."""
    rows = funnel.catalogue.rows_of(logged.shown["item_id"].to_pylist())
    if funnel.ranker is None:
        return np.zeros((len(rows), 0), np.float32)
    return funnel.ranker(query.user, rows, query.surface, query.about)


def features_equal(logged: Logged, funnel: Funnel, user: User) -> bool:
    """Whether the history, put together again from bundle and posts, is what was logged."""
    request = logged.request
    events = user.events.newest(funnel.bundle.longest_history)
    there = [name for name in HISTORY if request.get(f"history.{name}") is not None]
    same = [np.array_equal(getattr(events, name), history_of(request, name)) for name in there]
    same += [user.row == request["user"], user.reference_ms == request["reference_ms"]]
    return all(same)


def largest(logged: Logged, funnel: Funnel, scores: Any) -> float | None:
    """The largest difference of a probability; None where either has ranked nothing."""
    if not scores.size:
        return None
    before = logged.predictions(funnel.bundle.vocabulary.actions)
    return None if np.isnan(before).any() else float(np.abs(scores - before).max(initial=0.0))


def told(logged: Logged, funnel: Funnel, slate: Slate, scores: Any) -> list[dict[str, Any]]:
    """Of each item that was shown: the probabilities then and now, and its place now."""
    ids = logged.shown["item_id"].to_pylist()
    places = {item: place for place, item in enumerate(funnel.catalogue.external(slate.rows))}
    before = logged.predictions(funnel.bundle.vocabulary.actions)
    return [
        {
            "item_id": item,
            "place": places.get(item),
            "source": logged.shown["source"][at].as_py(),
            "logged": before[at].astype(float).round(6).tolist(),
            "replayed": scores[at].astype(float).round(6).tolist(),
        }
        for at, item in enumerate(ids)
    ]


def why(item_id: int | str, funnel: Funnel, slate: Slate, trace: Trace) -> str:
    """The reason why an item is not in the feed, or its place there. Raises UserError."""
    row = funnel.catalogue.rows_of([item_id])
    if not funnel.catalogue.is_known(row).all() and row[0] < funnel.catalogue.first_posted_row:
        raise UserError(f"item_id={item_id} is no item of bundle {funnel.bundle.version}")
    place = np.flatnonzero(slate.rows == row[0])
    if len(place):
        return f"place {place[0]}"
    reasons = (r for r, parts in trace.dropped.items() for rows in parts if row[0] in rows)
    return next(reasons, NOT_FOUND)


def show(summary: dict[str, Any]) -> None:
    """A table of the items that were shown."""
    table = Table(title=f"request {summary['request_id']} by bundle {summary['bundle']}")
    for name in ("item_id", "source", "place now", "logged", "replayed"):
        table.add_column(name)
    for row in summary["items"]:
        place = "" if row["place"] is None else str(row["place"])
        cells = (row["item_id"], row["source"], place, row["logged"], row["replayed"])
        table.add_row(*map(str, cells))
    console.print(table)
    console.print(f"dropped: {summary['dropped']}", highlight=False)


if __name__ == "__main__":
    run("replay", main, ReplayArguments)
