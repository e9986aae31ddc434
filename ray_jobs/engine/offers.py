"""What the retriever offers to held-out users, as impressions that a ranker can judge.

Logged slates hold what was shown: a dozen items among which little can move. Feeds are chosen from
hundreds of candidates, so weights that shall order feeds are found on those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data.contract.schema import DEFAULT_SURFACE
from data.queries import build_queries
from data.ranking import Catalogue, rank
from data.splits import TEST, TRAIN, VALID
from data.trends import Trends
from ray_jobs.engine.inference import Retriever
from ray_jobs.tasks.candidates import shown_on_top

if TYPE_CHECKING:
    from ray_jobs.engine.subject import HeldOut, Subject

KNOWN = {"valid": (TRAIN,), "test": (TRAIN, VALID)}


def offers(subject: Subject, part: HeldOut, count: int) -> pa.Table:
    """The retriever's best items for users of a part, as of what they did before it.

    Args:
        subject: the retriever and the log.
        part: of the log.
        count: items a user; so many users are drawn that `eval.max_impressions` are not exceeded.

    Returns:
        Encoded impressions without labels, in the order of the retriever.
    """
    log, limit = subject.log, subject.job.settings.eval.max_impressions
    number = VALID if part == "valid" else TEST
    queries = build_queries(log, number, max(limit // count, 1))
    retriever = Retriever.open(
        subject.models["two_tower"], log.dataset, Trends.of(log, KNOWN[part])
    )
    items = rank(retriever.scores, queries, Catalogue.of(log.dataset), count).items
    request, column = np.nonzero(items >= 0)
    shown = shown_on_top(queries, request, items[request, column])
    home = log.dataset.vocabulary.surface_codes.get(DEFAULT_SURFACE, 0)
    shown["surface"] = np.full(len(request), home)
    none = np.zeros(len(request), np.bool_)
    labels = {f"label.{name}": none for name in log.dataset.vocabulary.actions}
    return pa.table(shown | labels)
