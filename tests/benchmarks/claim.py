"""What a claim is, and what claims ask of the summaries of their commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.ranker_in_world import SMALL, TAUGHT
from tests.benchmarks.user_in_world import DENSE

DATA = Path(os.environ.get("HOMEFEED_DATA", "../shared/data"))
Summary = dict[str, Any]
Check = tuple[str, Callable[[Summary], bool]]


RESULTS = (":!tests/benchmarks/results", ":!ray_jobs/planning/measured.json")


def commit() -> str:
    """The commit that was measured, and whether its code was changed; results are no code."""
    asked = (
        ["rev-parse", "--short", "HEAD"],
        ["status", "--porcelain", "-uno", "--", ".", *RESULTS],
    )
    name, changes = (
        subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in asked
    )
    return f"{name}-dirty" if changes else name


# In a root of other code all would be found up to date, for the settings are the same.
ROOTS = f"runs/verify/{commit()}"


@dataclass(frozen=True)
class Claim:
    """A command, and what must hold of its last line.

    Attributes:
        name: of the result file.
        words: arguments of `python -m`.
        checks: what must hold, in words and as a test of the summary.
        needs: files without which the claim cannot be tried.
    """

    name: str
    words: tuple[str, ...]
    checks: tuple[Check, ...]
    needs: tuple[Path, ...] = ()


def retrieval(summary: Summary) -> dict[str, Any]:
    """Retrieval metrics of a pipeline's summary."""
    found: dict[str, Any] = summary["metrics"]["retrieval"]
    return found


def world_checks(minutes: float) -> tuple[Check, ...]:
    """What a default run in the world must show."""
    return (
        ("recall@10 above item-kNN", lambda s: above(s, "item_knn", 1.0)),
        ("recall@10 at least half of the oracle's", lambda s: above(s, "oracle_log", 0.5)),
        (f"at most {minutes} minutes", lambda s: sum(s["seconds"].values()) <= 60 * minutes),
        ("at most 6 GiB", lambda s: max(s["peak_mib"].values()) <= 6 * 1024),
        ("served 10 items without fallback", served),
    )


def above(summary: Summary, baseline: str, share: float) -> bool:
    """Whether the retriever's recall@10 exceeds a share of a baseline's."""
    found = retrieval(summary)
    return bool(found["recall@10"] >= share * found[baseline]["recall@10"])


def beats(summary: Summary, baseline: str, share: float) -> bool:
    """Whether the graph model's recall@20 reaches a share of a baseline's."""
    found = retrieval(summary)
    return bool(found["recall@20"] >= share * found[baseline]["recall@20"])


def told_apart(foretold: dict[str, float]) -> bool:
    """Whether what is asked by item is best counted by item, and by image what is asked so."""
    asked = {"own": "own count", "image's": "image's count"}
    other = {"own": "image's count", "image's": "own count"}
    return all(
        foretold[f"copies, {asked[kind]} to {kind}"] > foretold[f"copies, {other[kind]} to {kind}"]
        for kind in asked
    )


def orders(head: str, other: str, summary: Summary) -> bool:
    """Whether the ranker orders a user's held-out ratings better than a baseline, by one head."""
    found = summary["among rated"]["auc"]
    return bool(found["ranker"][head]["within"] > found[other][head]["within"])


def finds(head: str, other: str, summary: Summary) -> bool:
    """Whether the ranker tells what was rated so from other candidates better than a baseline."""
    found = summary["among candidates"][head]
    return bool(found["auc"] > found[other]["auc"])


def near(summary: Summary, expected: tuple[float, float]) -> bool:
    """Whether GF-CF's recall@20 and ndcg@20 are not more than 3% below what was verified."""
    found = retrieval(summary)["gf_cf"]
    pairs = zip((found["recall@20"], found["ndcg@20"]), expected, strict=True)
    return all(value >= 0.97 * wanted for value, wanted in pairs)


def gains(summary: Summary, age: str) -> bool:
    """Whether recall of items of an age is higher with graph embeddings, on average over seeds."""
    means = [sum(row[age] for row in summary[name]) for name in ("with", "without")]
    return bool(means[0] > means[1])


def targets(summary: Summary) -> list[dict[str, float]]:
    """Shares of each target language by bias."""
    found: dict[str, dict[str, float]] = summary["target_share"]
    return list(found.values())


def stops(summary: Summary, queries: int) -> bool:
    """Whether Pixie's early stop keeps .75 of a list by 40% of the steps, of so many queries."""
    found = summary["early_stop"][f"{queries} of 200000"]["n_v=4"]
    return bool(found["overlap"][0] >= 0.75 and found["steps_share"][0] <= 0.4)


def rises(shares: dict[str, float]) -> bool:
    """Whether the share is higher the stronger the bias."""
    values = list(shares.values())
    return values == sorted(values) and values[-1] > values[0]


def served(summary: Summary) -> bool:
    """Whether the published bundle answered over HTTP."""
    answer = summary["served"]
    return bool(answer["status"] == 200 and answer["num_items"] == 10 and not answer["fallback"])


def table(folder: str, *words: str, items: bool = False, root: str = "") -> tuple[str, ...]:
    """The pipeline on one of the public logs."""
    found = [f"source.events={DATA / folder / 'interactions.parquet'}", *words]
    if items:
        found += [f"source.{name}={DATA / folder / name}.parquet" for name in ("items", "users")]
    return ("ray_jobs.pipeline", f"root={ROOTS}/{root or folder}", "source.kind=table", *found)


def log_of(folder: str) -> tuple[Path, ...]:
    """The file without which a claim on public data cannot be tried."""
    return (DATA / folder / "interactions.parquet",)


def not_better(summary: Summary, arm: str) -> bool:
    """Whether an arm's recall is not above the default's, by its interval over users."""
    return bool(summary["arms"][arm]["difference"]["low"] <= 0)


def content_finds_more(summary: Summary) -> bool:
    """Whether recall of new movies is higher with sentence vectors, among them and of all."""
    with_vectors, columns = (summary["arms"][arm] for arm in ("columns and content", "columns"))
    names = ("recall@10 of all", "recall@10 among the new")
    return all(with_vectors[name] > columns[name] for name in names)


def floors_hold(summary: Summary) -> bool:
    """Whether no party gets less than its floor on days that had no part in the choice."""
    floors: dict[str, dict[str, Any]] = summary["logged"]["held_out"]["floors"]
    return all(told["verdict"] != "broken" for told in floors.values())


def floors_hold_served(summary: Summary) -> bool:
    """Whether each party gets its floor of what it could get of served feeds, less a tenth."""
    shares = summary["shares"]["after"]
    floors: dict[str, dict[str, Any]] = summary["logged"]["held_out"]["floors"]
    return all(shares[name] >= 0.9 * told["floor"] for name, told in floors.items())


def gain(summary: Summary, arm: str) -> bool:
    """Whether the default's recall is above an arm's, the interval over users too."""
    return bool(summary["arms"][arm]["difference"]["high"] < 0)


# Pancha et al., KDD'22, tables 1 to 4.
ORDERINGS: tuple[Check, ...] = (
    ("dense all action above sasrec", lambda s: gain(s, "sasrec")),
    ("dense all action above all action", lambda s: gain(s, "all action")),
    ("dense all action above next action", lambda s: gain(s, "next action")),
    ("above PinnerSage by 20 clusters", lambda s: gain(s, "pinnersage_20")),
    (
        "a daily vector costs sasrec more",
        lambda s: s["refresh"]["sasrec loses more by"]["low"] > 0,
    ),
)


def lower(arm: str, key: str) -> Callable[[Summary], bool]:
    """Whether served feeds have less of something than the default's, beyond the interval."""
    return lambda summary: bool(summary["arms"][arm][key]["difference"]["high"] < 0)


def taught_is_worth_more(summary: Summary) -> bool:
    """Whether a small ranker's feeds are worth more where a large one taught it, on average."""
    small, taught = (summary["arms"][name]["utility"]["mean"] for name in (SMALL, TAUGHT))
    return bool(taught > small)


SERVED_RANKER: tuple[Check, ...] = (
    ("an average of the history is worth less", lower("average of the history", "utility")),
    ("no history is worth less", lower("no history", "utility")),
    ("the long-term vector alone is worth less", lower("long-term vector alone", "utility")),
    ("a ranker of saves alone is worth less", lower("saves alone", "utility")),
    ("a ranker of hides alone too", lower("hides alone", "utility")),
    ("a time mask moves a feed less", lower("time mask of a day", "changed")),
    ("a small ranker is worth more if taught", taught_is_worth_more),
)
# Of one user with 100 actions and 500 candidates, on one thread.
LATENCY: tuple[Check, ...] = (
    ("500 candidates in 10 ms", lambda s: s["p50_ms"] <= 10),
    ("in 3 ms", lambda s: s["p50_ms"] <= 3),
    ("beside a busy process too in 10 ms", lambda s: s["busy_p50_ms"] <= 10),
    ("at least a million dense parameters", lambda s: s["parameters"] >= 1e6),
    ("at least four heads", lambda s: s["heads"] >= 4),
    ("three tenths of the bound of its products", lambda s: s["ratio_bound"] >= 0.3),
    (
        "ten times the user side for each candidate",
        lambda s: s["ratio_replicated"] >= 10,
    ),
)
PRECISION: tuple[Check, ...] = (
    (
        "by integers and bfloat16 nDCG@50 at least .995",
        lambda s: min(s["lists"]["ndcg@50"].values()) >= 0.995,
    ),
    (
        "no AUC falls by more than .001",
        lambda s: all(
            of_form["full"] - min(of_form.values()) <= 0.001 for of_form in s["auc"].values()
        ),
    ),
)


def arms_of_user(name: str, preset: str, arms: Iterable[str], checks: tuple[Check, ...]) -> Claim:
    """Some arms of the user model in a world; those of one world share a root."""
    words = (f"root={ROOTS}/user_{preset}", f"world.preset={preset}", "seeds=3")
    named = ",".join(dict.fromkeys((DENSE, *arms)))
    return Claim(name, ("tests.benchmarks.user_in_world", *words, f"arms={named}"), checks)


def arms_of_retriever(
    name: str, seeds: int, arms: Iterable[str], checks: tuple[Check, ...]
) -> Claim:
    """Some arms of the retriever in the default world, which they share."""
    words = (f"root={ROOTS}/retriever", f"seeds={seeds}", f"arms={','.join(arms)}")
    return Claim(name, ("tests.benchmarks.retriever_in_world", *words), checks)
