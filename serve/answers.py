"""A slate as an answer tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from serve.funnel import NO_ROWS
from serve.messages import RecommendedItem

if TYPE_CHECKING:
    from serve.funnel import Funnel, Slate
    from serve.stages import Trace

MOST_TOLD = 1000


def items_of(
    item_ids: list[int | str], slate: Slate, actions: tuple[str, ...]
) -> list[RecommendedItem]:
    """The places of a slate: external id, score, predictions of each action, source."""
    scores, predictions = slate.scores.tolist(), slate.predictions.tolist()
    return [
        RecommendedItem.model_construct(
            item_id=item_ids[at],
            score=scores[at],
            predictions=dict(zip(actions, predictions[at], strict=False)),
            source=slate.sources[at],
        )
        for at in range(len(item_ids))
    ]


def debug_of(funnel: Funnel, trace: Trace) -> dict[str, Any]:
    """What `debug` asks for: what each stage did, and why candidates are not in the feed."""
    rows = np.concatenate([NO_ROWS, *(part for parts in trace.dropped.values() for part in parts)])
    reasons = [reason for reason, count in trace.drops.items() for _ in range(count)]
    pairs = zip(funnel.catalogue.external(rows[:MOST_TOLD]), reasons, strict=False)
    items = [{"item_id": item, "reason": reason} for item, reason in pairs]
    return trace.funnel | {"dropped": trace.drops, "dropped_items": items}
