"""An export of the tiny root, and a job that indexes it."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from data.contract import artifact
from data.contract.schema import TREND_DAYS, Vocabulary
from data.corpus import CorpusSettings
from ray_jobs.bundle_settings import IndexSettings
from ray_jobs.engine.job import Job
from tests.tiny_root import DIM, TinyLog, with_graph, write_graph, write_ranker, write_towers

DEFAULT = CorpusSettings()


def publish_export(
    root: Path,
    log: TinyLog,
    dataset: artifact.Artifact,
    version: str = "e1",
    *,
    towers: str = "t1",
    graph: bool = False,
) -> artifact.Artifact:
    """An export of the data set; `graph` gives its items graph embeddings."""
    details = {
        key: dataset.manifest.details[key] for key in ("vocabulary", "calendar", "store_sequence")
    }
    if graph:
        vocabulary = Vocabulary.from_tree(details["vocabulary"])
        details["vocabulary"] = asdict(with_graph(vocabulary))
    details |= {
        "max_length": {"two_tower": 6, "ranker": 4},
        "versions": {"two_tower": towers, "ranker": "r1"},
        "trend_days": list(TREND_DAYS),
    }
    fields = {"parents": [dataset.reference()], "id_space": dataset.manifest.id_space}
    with artifact.publish(root, "export", version, details=details, **fields) as draft:
        (draft.path / "programs").mkdir()
        (draft.path / "tables").mkdir()
        write_towers(draft.path / "programs", 1.0)
        write_ranker(draft.path / "programs")
        (draft.path / "programs" / "item_tower.pt2").write_text("for torch")
        rng = np.random.default_rng(0)
        for model in ("two_tower", "ranker"):
            for name, space in (("item_id", log.item_ids), ("user_id", log.user_ids)):
                table = rng.normal(scale=0.1, size=(space.rows + 60, DIM)).astype(np.float32)
                np.save(draft.path / "tables" / f"{model}.{name}.npy", table)
        for name in ("items.arrow", "users.arrow"):
            (draft.path / name).hardlink_to(dataset.path / name)
        if graph:
            write_graph(draft.path, log)
        log.item_ids.save(draft.path / "ids" / "item")
        log.user_ids.save(draft.path / "ids" / "user")
    return artifact.read(root / "export" / version)


def job_of(root: Path, corpus: CorpusSettings = DEFAULT, **changes: Any) -> Job:
    """A job whose settings of the index are `changes`."""
    settings = SimpleNamespace(index=replace(IndexSettings(), **changes), corpus=corpus)
    return Job(settings, None, root)  # type: ignore[arg-type]
