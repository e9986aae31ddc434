"""Exports the current models: `python -m ray_jobs.export root=runs/default`.

Programs (torch.export and ONNX), ID tables as plain arrays, and the look-ups that serving shares
with training: all that an index and a server need, without any of our training code.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.contract.artifact import Artifact, Draft, current, has_current
from data.contract.schema import TREND_DAYS
from data.contract.settings import UserError, to_tree
from data.dataset import Dataset
from models.export import write_programs
from ray_jobs.engine.inference import RankingModel, Retriever

if TYPE_CHECKING:
    from ray_jobs.engine.job import Job

Model = RankingModel | Retriever


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """What a bundle holds.

    Attributes:
        table_dtype: number format of ID tables; float32 serves scores equal to training's.
    """

    table_dtype: Literal["float32", "float16"] = "float32"


def export(job: Job, move_pointer: bool = True) -> Artifact:
    """Exports the current retriever, and the current ranker if there is one."""
    dataset = Dataset.open(job.root)
    kinds = [kind for kind in ("two_tower", "ranker") if has_current(job.root, kind)]
    artifacts = [current(job.root, kind) for kind in kinds]
    for artifact in artifacts:
        check_same_rows(dataset.artifact, artifact)

    def write(draft: Draft) -> None:
        for artifact in artifacts:
            _write_model(draft.path, open_model(artifact, dataset), job.settings.export)
        _link_lookups(dataset, draft.path)
        draft.fields |= {
            "id_space": dataset.artifact.manifest.id_space,
            "details": _details(dataset, artifacts),
        }

    settings = {"export": to_tree(job.settings.export)}
    return job.make("export", [dataset.artifact, *artifacts], settings, write, move_pointer)


def check_same_rows(dataset: Artifact, model: Artifact) -> None:
    """Refuses a model whose rows mean something else. Raises UserError naming both sides."""
    for name, space in dataset.manifest.id_space.items():
        other = model.manifest.id_space.get(name, {})
        if other.get("major") != space["major"]:
            raise UserError(
                f"{model.manifest.name} was trained on {name} ids {other}, but "
                f"{dataset.manifest.name} has {space}; train it again"
            )


def open_model(artifact: Artifact, dataset: Dataset) -> Model:
    """Opens a trained model of either kind."""
    if artifact.kind == "ranker":
        return RankingModel.open(artifact, dataset)
    return Retriever.open(artifact, dataset, None)


def _write_model(folder: Path, model: Model, settings: ExportSettings) -> None:
    write_programs(model.core.programs(), folder / "programs")
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for name, table in model.tables.items():
        array = table.numpy().astype(settings.table_dtype)
        np.save(tables / f"{model.name}.{name}.npy", array)


def _link_lookups(dataset: Dataset, folder: Path) -> None:
    """Puts encoded features and id spaces beside the programs."""
    for name in ("items.arrow", "users.arrow"):
        link(dataset.artifact.path / name, folder / name)
    for name, space in dataset.artifact.manifest.id_space.items():
        source = dataset.root / f"{name}_ids" / space["version"]
        for file in ("ids.arrow", "keys.arrow"):
            link(source / file, folder / "ids" / name / file)


def link(source: str | Path, target: str | Path) -> None:
    """A second name for an immutable file; a copy where the file system cannot."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _details(dataset: Dataset, artifacts: list[Artifact]) -> dict[str, Any]:
    lengths = {a.kind: a.manifest.settings[a.kind]["sequence"]["max_length"] for a in artifacts}
    return {
        "vocabulary": dataclasses.asdict(dataset.vocabulary),
        "calendar": dataclasses.asdict(dataset.calendar) if dataset.calendar else None,
        "max_length": lengths,
        "trend_days": list(TREND_DAYS),
        "versions": {a.kind: a.version for a in artifacts},
        "store_sequence": dataset.details["store_sequence"],
    }


def main(job: Job) -> dict[str, Any]:
    """Exports the current retriever and ranker as programs, tables and look-ups."""
    with job.stage("export"):
        artifact = export(job)
    return {"export": artifact.version, "versions": artifact.manifest.details["versions"]}


if __name__ == "__main__":
    from ray_jobs.engine.job import run

    run("export", main)
