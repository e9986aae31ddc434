"""Policies judged by one another's logs: `python -m tests.benchmarks.open_bandit data= root=`.

Open Bandit (Saito et al., NeurIPS 2021): a shop showed 80 items in three places for a week, by
chance and by Thompson sampling (bts), each to users of its own, with the probability of what was
shown. Both logs are prepared as one impression log. What each policy earns is known from its own
log; here it is estimated from the other's.

- random from bts: each item has 1/80 in each place, so the weights are exact.
- bts from random: only the probability of the item shown is logged, so the policy is taken as the
  share of each item in each place over the week, from bts's own log. That is its value if what the
  policy learnt within the week went with no change of clicks; `both_drawn` draws both logs anew.

Clicks are few (38 and 42 of 10,000): the known values have wide intervals themselves. Last line: a
JSON object with every estimate beside the known value; `apart` is the distance in standard errors
of both.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from data.dataset import Dataset
from data.off_policy import (
    Estimate,
    Rounds,
    cross_fitted,
    doubly_robust,
    inverse_propensity,
    self_normalised,
)
from data.sources import locate
from ray_jobs.engine.job import start
from ray_jobs.prepare import prepare

POLICIES = ("random", "bts")
USER = [f"user_feature_{n}" for n in range(4)]
PLACES = 3
RESAMPLES = 500


def main(words: list[str]) -> None:
    """Prepares both logs, estimates, prints."""
    given = dict(word.split("=", 1) for word in words)
    dataset = prepared(Path(given["data"]) / "open-bandit", Path(given["root"]))
    logs = {name: Log.of(dataset, name) for name in POLICIES}
    known = {name: log.known() for name, log in logs.items()}
    targets = {"random": uniform(logs["bts"].num_items), "bts": shares(logs["bts"])}
    estimates = [
        {"policy": policy, "log": log, **facts}
        for policy, log in (("random", "bts"), ("bts", "random"), ("random", "random"))
        for facts in estimated(logs[log], targets[policy], known[policy])
    ]
    found = {"logs": known, "estimates": estimates, "both_drawn": both_drawn(logs)}
    print(json.dumps({"name": "open_bandit"} | found))


def prepared(data: Path, root: Path) -> Dataset:
    """Both logs through `prepare`, each impression with its policy as `source`."""
    tables = [pq.read_table(data / f"{name}_all.parquet") for name in POLICIES]
    raw = pa.concat_tables([t.select([*tables[0].column_names[:5], *USER]) for t in tables])
    keys = np.array(["|".join(row.values()) for row in raw.select(USER).to_pylist()])
    _, first, user = np.unique(keys, return_index=True, return_inverse=True)
    policy = np.repeat(POLICIES, [t.num_rows for t in tables])
    raw = raw.append_column("user_id", pa.array(user)).append_column("source", pa.array(policy))
    raw = raw.append_column("request_id", pa.array(np.arange(raw.num_rows)))
    raw = raw.append_column("label.click", raw["click"].cast(pa.bool_()))
    clicks = raw.filter(raw["label.click"]).select(["user_id", "item_id", "timestamp"])
    clicks = clicks.append_column("action", pa.array(["click"] * clicks.num_rows))
    users = raw.take(pa.array(first)).select(["user_id", *USER])
    items = pa.table({"item_id": np.unique(raw["item_id"].to_numpy())})
    root.mkdir(parents=True, exist_ok=True)
    files = {"events": clicks, "impressions": raw, "users": users, "items": items}
    for name, table in files.items():
        pq.write_table(table, root / f"{name}.parquet")
    sources = [f"source.{name}={root / name}.parquet" for name in files]
    settings = ["source.kind=table", "split.kind=leave_one_out"]
    columns = ["source.columns.propensity=propensity_score"]
    job = start([f"root={root}", *settings, *sources, *columns])
    prepare(job, locate(job.settings.source))
    return Dataset.open(job.root)


class Log:
    """One policy's impressions, N of them, as `prepare` left them.

    Attributes:
        item: 0 to 79, [N].
        place: 0 to 2, [N].
        click: 0 or 1, [N].
        propensity: of the item shown, [N].
        user: 0/1 for each value of the user's columns, [N, V].
    """

    def __init__(self, dataset: Dataset, rows: pa.Table) -> None:
        assert dataset.calendar is not None
        self.num_items = dataset.item_ids.rows - dataset.item_ids.first_row
        self.item = rows["item"].to_numpy().astype(np.int64) - dataset.item_ids.first_row
        self.place = rows["position"].to_numpy().astype(np.int64) - 1
        self.click = rows["label.click"].to_numpy().astype(float)
        self.propensity = rows["propensity"].to_numpy().astype(float)
        columns = dataset.users.gather(rows["user"].to_numpy()).values()
        self.user = np.concatenate([values[:, None] == np.unique(values) for values in columns], 1)

    @classmethod
    def of(cls, dataset: Dataset, policy: str) -> Log:
        assert dataset.calendar is not None
        files = dataset.impression_files(1, dataset.calendar.num_days)
        rows = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
        return cls(dataset, rows.filter(pa.compute.equal(rows["source"], policy)))

    def __len__(self) -> int:
        return len(self.item)

    def known(self) -> dict[str, float]:
        """What the policy earned in its own log."""
        error = self.click.std(ddof=1) / np.sqrt(len(self))
        return {"rounds": len(self), "value": self.click.mean(), "standard_error": error}

    def rounds(self, target: np.ndarray) -> Rounds:
        """Beside a policy that chooses items of each place with `target` [places, items]."""
        return Rounds(self.click, self.item, self.propensity, target[self.place])

    def predicted(self, learnt_from: np.ndarray) -> np.ndarray:
        """Clicks foretold of every item, [N, items], by an item's, a place's and a user's part."""
        place = self.place[:, None] == np.arange(PLACES)
        context = np.concatenate([place, self.user], axis=1).astype(float)
        items = np.eye(self.num_items)[self.item]
        inputs = np.concatenate([items, context], axis=1)[learnt_from]
        model = LogisticRegression(C=0.1, max_iter=500).fit(inputs, self.click[learnt_from])
        of_item, of_context = np.split(model.coef_[0], [self.num_items])
        logits = model.intercept_ + of_item[None] + (context @ of_context)[:, None]
        return 1 / (1 + np.exp(-logits))


def uniform(num_items: int) -> np.ndarray:
    """Every item alike in each place."""
    return np.full((PLACES, num_items), 1 / num_items)


def shares(log: Log, weights: np.ndarray | None = None) -> np.ndarray:
    """How often a policy showed each item in each place, [places, items]."""
    cells = log.place * log.num_items + log.item
    counts = np.bincount(cells, weights, minlength=PLACES * log.num_items)
    counts = counts.reshape(PLACES, -1)
    return counts / counts.sum(axis=1, keepdims=True)


def estimated(log: Log, target: np.ndarray, known: dict[str, float]) -> list[dict[str, Any]]:
    """All estimators of a policy's value from one log, beside what is known."""
    rounds = log.rounds(target)
    found = {
        "inverse propensity": inverse_propensity(rounds),
        "self-normalised": self_normalised(rounds),
        "doubly robust": doubly_robust(rounds, cross_fitted(len(log), log.predicted)),
    }
    facts = {
        "effective_sample_size": rounds.effective_sample_size,
        "mean_weight": float(rounds.weight.mean()),
        "largest_weight": float(rounds.weight.max()),
        "known": known["value"],
    }
    return [
        {"estimator": name, **asdict(e), **facts, "apart": apart(e, known)}
        for name, e in found.items()
    ]


def apart(estimate: Estimate, known: dict[str, float]) -> float:
    """Distance from the known value in standard errors of both."""
    error = np.hypot(estimate.standard_error, known["standard_error"])
    return float((estimate.value - known["value"]) / error)


def both_drawn(logs: dict[str, Log]) -> dict[str, tuple[float, float]]:
    """95% intervals of bts from random where bts's shares are drawn anew as well."""
    rng, log = np.random.default_rng(0), logs["random"]
    found = []
    for _ in range(RESAMPLES):
        counts, of_bts = (
            rng.multinomial(len(one), np.full(len(one), 1 / len(one))) for one in logs.values()
        )
        target = shares(logs["bts"], of_bts.astype(float))
        weight = counts * target[log.place, log.item] / log.propensity
        value = weight @ log.click / len(log)
        found.append((value, value * len(log) / weight.sum()))
    low, high = np.quantile(np.array(found), [0.025, 0.975], axis=0)
    names = ("inverse propensity", "self-normalised")
    return {name: (float(low[n]), float(high[n])) for n, name in enumerate(names)}


if __name__ == "__main__":
    main(sys.argv[1:])
