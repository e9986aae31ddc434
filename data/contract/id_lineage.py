"""Whether rows of two artefacts of a root mean the same ids.

Rows are numbered in the order of a hash, so a space made anew of a few more ids numbers all of them
otherwise. They mean the same where one space extends the other, as each day's does that of the day
before: an artefact of ids has the one that it extends as its parent, and is never removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.contract.artifact import peek
from data.contract.settings import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.artifact import Artifact


def check_same_ids(root: Path, dataset: Artifact, model: Artifact) -> None:
    """Refuses a model whose rows mean other ids than those of a data set.

    Raises:
        UserError: neither of the two id spaces extends the other; both are named.
    """
    for name, ours in dataset.manifest.id_space.items():
        theirs = model.manifest.id_space.get(name, {})
        if not _agree(root / f"{name}_ids", ours, theirs):
            raise UserError(
                f"{model.manifest.name} is for {name} ids {theirs}, but {dataset.manifest.name} "
                f"has {ours}, and neither extends the other: their rows mean other {name}s; train "
                "it again"
            )


def descends(root: Path, dataset: Artifact, model: Artifact) -> bool:
    """Whether the ids of a data set are those of a model, or extend them."""
    return all(
        bool(_extends(root / f"{name}_ids", ours, model.manifest.id_space.get(name, {})))
        for name, ours in dataset.manifest.id_space.items()
    )


def _agree(folder: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether one extends the other, or that cannot be told any more."""
    return ours["major"] == theirs.get("major") and any(
        _extends(folder, later, earlier) is not False
        for later, earlier in ((ours, theirs), (theirs, ours))
    )


def _extends(folder: Path, later: dict[str, Any], earlier: dict[str, Any]) -> bool | None:
    """Whether a space is another one or extends it; None where manifests are gone that say it.

    Takes a manifest for each extension in between.
    """
    if later["rows"] < earlier.get("rows", 0):
        return False
    version, sought = later.get("version"), earlier.get("version")
    while version != sought:
        found = peek(folder / version) if version and sought else None
        if found is None:
            return None
        before = [p["version"] for p in found.parents if p["kind"] == folder.name]
        if not before:
            return False
        version = before[0]
    return True if version else None
