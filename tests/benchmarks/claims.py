"""What the README claims: commands, and what their summaries must show (`verify`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.benchmarks.claim import (
    DATA,
    ORDERINGS,
    ROOTS,
    SERVED_RANKER,
    Claim,
    above,
    arms_of_retriever,
    arms_of_user,
    beats,
    content_finds_more,
    finds,
    floors_hold,
    floors_hold_served,
    gain,
    gains,
    log_of,
    near,
    not_better,
    orders,
    retrieval,
    rises,
    served,
    stops,
    table,
    targets,
    told_apart,
    world_checks,
)
from tests.benchmarks.cluster_claims import CLUSTER_CLAIMS
from tests.benchmarks.retriever_in_world import FROZEN, INTERESTS, PARTS, ROWS
from tests.benchmarks.serving_claims import SERVING_CLAIMS
from tests.benchmarks.tuning_claims import TUNING_CLAIMS
from tests.benchmarks.user_in_world import INPUTS, NEGATIVES, OBJECTIVES

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
            (
                "without least shares more than retrieved ones",
                lambda s: s["chosen"] > s["retrieved"],
            ),
        ),
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
    ),
    Claim(
        "balance_in_world",
        ("tests.benchmarks.balance_in_world", f"root={ROOTS}/default"),
        (
            ("no floor is broken on held-out days", floors_hold),
            ("nor by more than a tenth in served feeds", floors_hold_served),
            (
                "each party gets more of served feeds, intervals above 0",
                lambda s: all(s["difference"][n]["low"] > 0 for n in s["weights"]),
            ),
            (
                "users keep 95% of what feeds are worth",
                lambda s: s["worth"]["after"]["user"] >= 0.95 * s["worth"]["before"]["user"],
            ),
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
        "ranker_ml1m",
        ("tests.benchmarks.ranker_ml1m", f"data={DATA}", f"root={ROOTS}/ranker_ml1m"),
        (
            *(
                (f"{head} within users' ratings above {other}'s", partial(orders, head, other))
                for head in ("like", "dislike")
                for other in ("popularity", "logistic", "trees")
            ),
            *(
                (f"{head} among candidates above {other}'s", partial(finds, head, other))
                for head in ("like", "love", "dislike")
                for other in ("popularity", "logistic", "trees")
            ),
            ("at most 25 minutes", lambda s: sum(s["seconds"].values()) <= 25 * 60),
        ),
        (DATA / "ml-1m" / "items_content.parquet",),
    ),
    Claim(
        "open_bandit",
        ("tests.benchmarks.open_bandit", f"data={DATA}", f"root={ROOTS}/open_bandit"),
        (
            (
                "every estimate within 1.96 standard errors of the known value",
                lambda s: all(abs(e["apart"]) < 1.96 for e in s["estimates"]),
            ),
            (
                "weights average 1 within a tenth",
                lambda s: all(abs(e["mean_weight"] - 1) < 0.1 for e in s["estimates"]),
            ),
        ),
        (DATA / "open-bandit" / "random_all.parquet",),
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
        "ranker_in_world",
        ("tests.benchmarks.ranker_in_world", f"root={ROOTS}/default"),
        SERVED_RANKER,
        (Path(f"{ROOTS}/default/bundles/CURRENT"),),
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
    *SERVING_CLAIMS,
    *TUNING_CLAIMS,
    *CLUSTER_CLAIMS,
)
