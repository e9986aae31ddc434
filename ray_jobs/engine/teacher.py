"""A trained ranker that another one learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from data.contract.artifact import find
from data.contract.settings import UserError
from ray_jobs.engine.ranking_model import RankingModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from data.contract.artifact import Artifact
    from data.contract.encode import Mask
    from data.requests import Requests, UserEvents
    from data.windows import Windows
    from models.ranker_settings import RankerSettings
    from ray_jobs.engine.assignment import Assignment

PREFIX = "teacher."


@dataclass(frozen=True, slots=True)
class Teacher:
    """Answers to the requests of a batch, beside their labels.

    Attributes:
        model: the teacher, knowing what may be known in training.
    """

    model: RankingModel

    @classmethod
    def of(cls, assignment: Assignment, parts: Sequence[int], asked: Mask) -> Teacher | None:
        """The ranker that `ranker.teacher` names, if any. Raises UserError; see `teacher_of`.

        Args:
            assignment: of the student.
            parts: whose events the requests that it will label may know.
            asked: users of these requests, [rows].
        """
        artifact = teacher_of(assignment.root, assignment.settings.ranker)
        if artifact is None:
            return None
        model = RankingModel.open(artifact, assignment.dataset)
        return cls(model.knowing(assignment.log, parts, asked))

    def labels(self, requests: Requests, events: UserEvents) -> dict[str, Tensor]:
        """Probability of each action at each impression: `teacher.<action>` float32[N]."""
        answers = torch.from_numpy(self.model.of_requests(requests, events)).sigmoid()
        actions = self.model.dataset.vocabulary.actions
        return {f"{PREFIX}{action}": answers[:, at] for at, action in enumerate(actions)}


def teacher_of(root: Path, settings: RankerSettings) -> Artifact | None:
    """The ranker that `ranker.teacher` names.

    Raises:
        UserError: there is none of that version, or it has learnt from another share of the
            negatives, so that its probabilities mean something else.
    """
    if settings.teacher is None:
        return None
    folder = root / "ranker"
    versions = sorted(p.name for p in folder.glob("*") if (p / "manifest.json").is_file())
    artifact = find(root, "ranker", settings.teacher)
    if artifact is None:
        known = ", ".join(versions) or "none yet"
        raise UserError(
            f"ranker.teacher={settings.teacher} is no ranker of this root; it has {known}"
        )
    rate = artifact.manifest.settings["ranker"]["negative_rate"]
    if rate != settings.negative_rate:
        raise UserError(
            f"ranker.teacher={settings.teacher} was trained with ranker.negative_rate={rate}; a "
            f"student needs the same, not {settings.negative_rate}"
        )
    return artifact


def check_days(teacher: Artifact, windows: Windows | None) -> None:
    """Raises UserError for a teacher that knows labels of days that its student is chosen on."""
    learnt = teacher.manifest.window
    if windows and learnt and learnt[1] >= windows.valid[0]:
        raise UserError(
            f"ranker.teacher={teacher.version} has learnt from days up to {learnt[1]}, but steps "
            f"are chosen on days from {windows.valid[0]} on: it would tell its student their "
            "labels; train the teacher with these windows"
        )
