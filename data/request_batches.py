"""Requests of an impression log -> training batches of the ranker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from data.batching import tensors
from data.contract.encode import encode_history
from data.trends import days_of
from models.batch import Batch

if TYPE_CHECKING:
    from data.batching import Encoder
    from data.contract.encode import Events
    from data.requests import Requests
    from data.trends import Trends


def ranker_batch(
    requests: Requests,
    histories: Events,
    encoder: Encoder,
    actions: tuple[str, ...],
    trends: Trends | None,
) -> Batch:
    """One batch of the ranker.

    Args:
        requests: R requests.
        histories: what was known of each user before the request, [R] cut to the model's length.
        encoder: features and ids.
        actions: names of the label columns.
        trends: what was popular when, in a log with a clock.
    """
    wanted = np.concatenate([histories.item, requests.item])
    items, index = np.unique(wanted, return_inverse=True)
    arrays = encode_history(histories, requests.timestamp)
    arrays |= {
        "history.item": index[: len(histories.item)],
        "candidate.item": index[len(histories.item) :],
        "candidate.lengths": np.diff(requests.offsets),
        "candidate.position": requests.position,
    }
    arrays |= encoder.long_term("user", requests.user, requests.timestamp)
    if trends is not None:
        day = np.repeat(days_of(trends.calendar, requests.timestamp), np.diff(requests.offsets))
        found = trends.before(day, requests.item)
        arrays |= {f"candidate.{name}": array for name, array in found.items()}
    ids, features = encoder.inputs(items, requests.user)
    labels = {f"label.{a}": torch.from_numpy(requests.labels[:, i]) for i, a in enumerate(actions)}
    return Batch(
        ids=ids,
        inputs=tensors(arrays | features),
        labels=labels,
        weight=torch.ones(len(requests)),
        objective="impressions",
    )
