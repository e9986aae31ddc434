"""What the README claims: commands, and what their summaries must show (`verify`)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.retriever_in_world import FROZEN, INTERESTS, PARTS, ROWS
from tests.benchmarks.user_in_world import DENSE, INPUTS, NEGATIVES, OBJECTIVES

DATA = Path(os.environ.get("HOMEFEED_DATA", "../shared/data"))
Summary = dict[str, Any]
Check = tuple[str, Callable[[Summary], bool]]


def commit() -> str:
    """The commit that was measured."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return git.stdout.strip()


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


CLAIMS = (
    Claim("default", ("ray_jobs.pipeline", f"root={ROOTS}/default"), world_checks(10)),
    Claim(
        "other_seed",
        ("ray_jobs.pipeline", f"root={ROOTS}/other_seed", "world.seed=7"),
        world_checks(10),
    ),
    Claim(
        "feed_utility",
        ("tests.benchmarks.feed_utility", f"root={ROOTS}/default"),
        (
            (
                "a served item is worth more than a popular one",
                lambda s: s["served"] > s["popular"],
            ),
            ("no less than 80% of retrieved ones", lambda s: s["served"] >= 0.8 * s["retrieved"]),
        ),
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "index",
        ("tests.benchmarks.bench_index", f"root={ROOTS}/default"),
        (
            ("recall@100 at least .95", lambda s: s["recall"] >= 0.95),
            ("twice hnswlib's queries a second", lambda s: s["ratio_hnswlib"] >= 2),
            ("ten times the exact index's", lambda s: s["ratio_flat"] >= 10),
            (
                "at least .99 under conditions of .1% to 50%",
                lambda s: s["filtered_recall_min"] >= 0.99,
            ),
            ("ten times a bitmap's up to 10%", lambda s: s["filtered_ratio_bitmap"] >= 10),
            ("four times an exact scan's from 10%", lambda s: s["filtered_ratio_exact"] >= 4),
            ("at most twice the vectors' memory", lambda s: s["memory_ratio"] <= 2),
        ),
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "ml1m",
        table("ml-1m", "source.columns.position=seq_pos", "split.kind=leave_one_out", items=True),
        (
            ("hit_rate@10 at least .20", lambda s: retrieval(s)["hit_rate@10"] >= 0.20),
            ("at most 25 minutes", lambda s: sum(s["seconds"].values()) <= 25 * 60),
            ("served 10 items without fallback", served),
        ),
        log_of("ml-1m"),
    ),
    Claim(
        "ml100k",
        table("ml-100k", "source.timestamp_unit=s", "split.kind=time", items=True),
        (("served 10 items without fallback", served),),
        log_of("ml-100k"),
    ),
    Claim(
        "pinterest",
        table("pinterest", "split.kind=column", "split.column=split"),
        (
            ("recall@10 above popularity", lambda s: above(s, "popularity", 1.0)),
            ("served 10 items without fallback", served),
        ),
        log_of("pinterest"),
    ),
    Claim(
        "gowalla",
        table("gowalla", "split.kind=column", "split.column=split", "model=graph"),
        (
            ("recall@20 at least GF-CF's", lambda s: beats(s, "gf_cf", 1.0)),
            ("GF-CF as verified, .2067/.1154, within 3%", lambda s: near(s, (0.2067, 0.1154))),
            ("at most 60 minutes", lambda s: sum(s["seconds"].values()) <= 60 * 60),
        ),
        log_of("gowalla"),
    ),
    Claim(
        "pinterest_graph",
        table("pinterest", "split.kind=column", "split.column=split", "model=graph"),
        (
            ("recall@20 at least GF-CF's", lambda s: beats(s, "gf_cf", 1.0)),
            ("GF-CF as verified, .1564/.1115, within 3%", lambda s: near(s, (0.1564, 0.1115))),
        ),
        log_of("pinterest"),
    ),
    Claim(
        "corpus_in_world",
        ("tests.benchmarks.corpus_in_world", f"root={ROOTS}/corpus_in_world"),
        (
            (
                "half of the items keep nine tenths of what follows",
                lambda s: s["kept"]["50%"]["7 d, 10% new"] >= 0.9,
            ),
            (
                "scores that fade keep more than those that do not, at every size",
                lambda s: all(
                    k["7 d, 10% new"] > k["1e+09 d, 10% new"] for k in s["kept"].values()
                ),
            ),
            (
                "a copy's own count foretells its own, the image's count the image's",
                lambda s: told_apart(s["foretold"]),
            ),
        ),
    ),
    Claim(
        "graph_in_world",
        ("tests.benchmarks.graph_in_world", f"root={ROOTS}/graph_in_world", "seeds=3"),
        (
            (
                "better with graph embeddings, interval above 0",
                lambda s: s["difference"]["low"] > 0,
            ),
            ("better on items of the graph's window", lambda s: gains(s, "older")),
            (
                "better on items that came after it",
                lambda s: gains(s, "after the graph's window"),
            ),
            (
                "the same whether walked on the fly or before",
                lambda s: s["on_the_fly"] == s["with"][0],
            ),
        ),
    ),
    Claim(
        "ablate_graph",
        ("tests.benchmarks.ablate_graph", f"root={ROOTS}/ablate_graph", "seeds=3"),
        (("no arm failed", lambda s: not any(arm["failed"] for arm in s["arms"])),),
    ),
    Claim(
        "ablate_gowalla",
        (
            "tests.benchmarks.ablate_graph",
            *table("gowalla", "split.kind=column", "split.column=split", root="ablate_gowalla")[1:],
            "split.refit=false",
            "users=.2",
            "seeds=3",
        ),
        (("no arm failed", lambda s: not any(arm["failed"] for arm in s["arms"])),),
        log_of("gowalla"),
    ),
    Claim(
        "walks",
        ("tests.benchmarks.bench_walks",),
        (
            ("2.5 times numpy", lambda s: s["ratio_numpy"] >= 2.5),
            ("60% of the gather bound at 60M edges", lambda s: s["ratio_bound_60m"] >= 0.6),
            ("two threads 1.5 times one", lambda s: s["ratio_two_threads"] >= 1.5),
        ),
    ),
    Claim(
        "pixie",
        ("tests.benchmarks.bench_pixie",),
        (
            ("early stop keeps .75 of the list by 40% of the steps", lambda s: stops(s, 1)),
            ("of five queries too", lambda s: stops(s, 5)),
            ("bias raises the share of its target", lambda s: all(map(rises, targets(s)))),
            ("near exact PageRank", lambda s: s["pagerank_overlap"]["3000000"] >= 0.9),
        ),
    ),
    Claim(
        "ml1m_user",
        table(
            "ml-1m",
            *("source.columns.position=seq_pos", "split.kind=leave_one_out", "model=user"),
            items=True,
            root="ml1m_user",
        ),
        (
            ("hit_rate@10 at least .315", lambda s: retrieval(s)["hit_rate@10"] >= 0.315),
            ("ndcg@10 at least .180", lambda s: retrieval(s)["ndcg@10"] >= 0.180),
            ("at most 90 minutes", lambda s: sum(s["seconds"].values()) <= 90 * 60),
        ),
        log_of("ml-1m"),
    ),
    Claim(
        "beauty_user",
        table(
            "beauty",
            *("source.columns.position=seq_pos", "split.kind=leave_one_out", "model=user"),
            root="beauty_user",
        ),
        (("hit_rate@10 at least .065", lambda s: retrieval(s)["hit_rate@10"] >= 0.065),),
        log_of("beauty"),
    ),
    Claim(
        "sequence",
        ("tests.benchmarks.bench_sequence",),
        (
            ("twice RecTools' targets a second", lambda s: s["ratio_rectools"] >= 2),
            ("waits for data under 5% of the time", lambda s: s["data_wait"] <= 0.05),
        ),
    ),
    *(
        arms_of_user(f"user_objectives_{preset}", preset, OBJECTIVES, ORDERINGS)
        for preset in ("drift1", "drift0", "drift2")
    ),
    arms_of_user(
        "user_negatives",
        "drift1",
        NEGATIVES,
        tuple((f"mixed with logQ above {arm}", partial(gain, arm=arm)) for arm in NEGATIVES),
    ),
    arms_of_user(
        "user_inputs",
        "drift1",
        INPUTS,
        tuple((f"the default above {arm}", partial(gain, arm=arm)) for arm in INPUTS),
    ),
    arms_of_retriever(
        "retriever_in_world",
        3,
        PARTS,
        (
            ("better by several interests", lambda s: gain(s, "one vector")),
            ("better by graph vectors", lambda s: gain(s, "without graph vectors")),
            *(
                (f"no better: {arm}", partial(not_better, arm=arm))
                for arm in ("with user vectors", FROZEN, "two mixed layers", "conditions")
            ),
        ),
    ),
    arms_of_retriever(
        "id_rows",
        1,
        ROWS,
        tuple((f"no better: {arm}", partial(not_better, arm=arm)) for arm in ROWS),
    ),
    arms_of_retriever(
        "interests",
        1,
        INTERESTS,
        tuple((f"no better: {arm}", partial(not_better, arm=arm)) for arm in INTERESTS),
    ),
    Claim(
        "cold_items",
        ("tests.benchmarks.cold_items", f"data={DATA}", f"root={ROOTS}/cold_items"),
        (("sentence vectors find new movies better", content_finds_more),),
        (DATA / "ml-1m" / "items_content.parquet",),
    ),
    Claim(
        "gowalla_two_tower",
        table(
            "gowalla",
            *("split.kind=column", "split.column=split", "model=two_tower"),
            "eval.baselines=[popularity,item_knn,bpr]",
            root="gowalla_two_tower",
        ),
        (
            ("recall@20 above BPR's", lambda s: beats(s, "bpr", 1.0)),
            ("recall@20 above item-kNN's", lambda s: beats(s, "item_knn", 1.0)),
        ),
        log_of("gowalla"),
    ),
    Claim(
        "tables",
        ("tests.benchmarks.bench_tables",),
        (("3 times EmbeddingBag with Adagrad", lambda s: s["ratio_embedding_bag"] >= 3),),
    ),
    Claim(
        "user_table",
        ("tests.benchmarks.bench_user_table", f"folder={ROOTS}/user_table"),
        (
            ("memory does not grow with the users", lambda s: s["memory_growth"] <= 1.2),
            ("killed on the way, the same comes out", lambda s: bool(s["resumed"])),
        ),
    ),
    Claim(
        "sampling",
        ("tests.benchmarks.bench_sampling",),
        (
            ("under 2 GiB beyond the graph", lambda s: s["peak_mib"] - s["graph_mib"] <= 2048),
            ("killed half-way, the same comes out", lambda s: bool(s["identical"])),
        ),
    ),
    Claim(
        "killed",
        ("tests.benchmarks.kill_stages",),
        (("killed in any stage, the same comes out", lambda s: s["differs"] == []),),
    ),
)
