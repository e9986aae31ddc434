"""Logged requests scored once, so that any weights of the parties re-rank them at once.

Cost: the ranker runs once over the impressions; a ranking by other weights is one pass over
8 x (2 + P) bytes an impression. Shapes: R requests, S candidates of the longest one, P parties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.contract.encode import Ints, Mask
from data.contract.settings import UserError
from data.requests import Requests, UserEvents
from data.splits import TEST, TRAIN, VALID
from data.training_log import TrainingLog
from ray_jobs.engine.offers import KNOWN, offers
from ray_jobs.engine.ranking_model import RankingModel, users_of

if TYPE_CHECKING:
    from ray_jobs.engine.subject import HeldOut, Subject
    from serve.utility import Utility

Floats = npt.NDArray[np.float64]

Source = Literal["retrieved", "logged"]

GATED = -1e9  # below whatever is within the gates, above filler
OWN_BEST = 1e6  # of a party where it alone decides: the user's score only breaks ties
RESAMPLES = 1000
PARTS = {"valid": (TRAIN, VALID), "test": (TRAIN, VALID, TEST)}


class Chosen(Protocol):
    """Which requests are ranked again."""

    @property
    def requests(self) -> Source:
        """The retriever's candidates, or what was shown."""

    @property
    def top(self) -> int:
        """Items of a request that are shown."""


@dataclass(frozen=True, slots=True)
class Slates:
    """Candidates of requests with what each is worth.

    Attributes:
        users: user row of each request, [R].
        shown: items of each request that are shown, [R].
        worth: to the user, then to each party, 0 for filler, [1 + P, R, S].
        offset: 0, GATED above a gate, -inf for filler, [R, S].
        top: most items shown.
    """

    users: Ints
    shown: Ints
    worth: Floats
    offset: Floats
    top: int

    @classmethod
    def of(cls, requests: Requests, worth: Floats, above: Mask, top: int) -> Slates:
        """Lays the candidates of requests side by side.

        Args:
            requests: R of them, with N candidates in all.
            worth: of each candidate to the user and to each party, [N, 1 + P].
            above: whether a candidate is above a gate, [N].
            top: items shown.

        Raises:
            UserError: no request has more candidates than are shown, so that nothing can move.
        """
        lengths = np.diff(requests.offsets)
        longest = int(lengths.max(initial=0))
        if longest <= top:
            raise UserError(f"requests have at most {longest} items, and top={top}; lower top")
        row = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(row)) - requests.offsets[:-1][row]
        wide = np.zeros((worth.shape[1], len(lengths), longest))
        wide[:, row, place] = worth.T
        offset = np.full(wide.shape[1:], -np.inf)
        offset[row, place] = np.where(above, GATED, 0.0)
        return cls(requests.user, np.minimum(lengths, top), wide, offset, top)

    def ranked_by(self, weights: Floats) -> Floats:
        """What the best items of each request are worth under weights of the parties.

        Args:
            weights: of each party beside the user's score, [P].

        Returns:
            Mean over the items shown, to the user and to each party, [R, 1 + P].
        """
        total = np.tensordot(weights, self.worth[1:], axes=1)
        total += self.worth[0]
        total += self.offset
        first = total.shape[1] - self.top
        best = np.argpartition(total, first, axis=1)[:, first:]
        sums = [np.take_along_axis(one, best, axis=1).sum(axis=1) for one in self.worth]
        return np.stack(sums, axis=1) / self.shown[:, None]

    def at_own_best(self, party: int) -> Floats:
        """The same where the number-th party alone decides, and the user between equals.

        Its most is taken as one, so that no unit of it outweighs a gate.
        """
        weights = np.zeros(len(self.worth) - 1)
        weights[party] = OWN_BEST / (float(np.abs(self.worth[1 + party]).max()) or 1.0)
        return self.ranked_by(weights)


def open_slates(subject: Subject, utility: Utility, part: HeldOut, words: Chosen) -> Slates:
    """Scores the requests of a part by the current ranker, every item as if it stood on top.

    Args:
        subject: the ranker and the log, the retriever too for its candidates.
        utility: what items are worth, to whom.
        part: of the log.
        words: what is ranked again, and how many of it are shown.

    Raises:
        UserError: there are no such requests, or too few items in each.
    """
    dataset = subject.datasets["ranker"]
    retrieved = words.requests == "retrieved"
    if retrieved:
        impressions = offers(subject, part, subject.job.settings.serve.candidates)
    else:
        impressions = _on_top(subject.impressions(part))
    # What counts the events it knows counts those of the earlier parts.
    counted = retrieved or subject.candidates
    parts = KNOWN[part] if counted else PARTS[part]
    asked = users_of(impressions, dataset)
    events = UserEvents.of(TrainingLog(subject.log, parts), asked)
    model = RankingModel.open(subject.models["ranker"], dataset, subject.calibration)
    model.knowing(subject.log, parts, asked)
    probabilities = model.probabilities(impressions, events)
    requests = Requests.of(impressions, dataset.vocabulary.actions)
    items = dataset.items.only(utility.columns).gather(requests.item)
    of_parties = utility.of_parties(probabilities, items)
    worth = np.column_stack([utility.user(probabilities), of_parties]).astype(np.float64)
    return Slates.of(requests, worth, utility.above_gates(probabilities), words.top)


def _on_top(impressions: pa.Table) -> pa.Table:
    at = impressions.schema.get_field_index("position")
    zeros = pa.array(np.zeros(impressions.num_rows, np.int16))
    return impressions.set_column(at, "position", zeros)


def ratio_interval(
    users: Ints, numerator: Floats, denominator: Floats, seed: int
) -> tuple[float, float, float]:
    """Ratio of two means over requests, with a paired 95% bootstrap that draws whole users.

    Args:
        users: of each request, [R].
        numerator: [R].
        denominator: [R]; ones for the mean of the numerator.
        seed: of the resampling.

    Returns:
        Ratio, low, high; NaN where all denominators are 0. Resamples in which they are say nothing.
    """
    if not denominator.any():
        return (float("nan"),) * 3
    _, owner = np.unique(users, return_inverse=True)
    sums = np.stack([np.bincount(owner, part) for part in (numerator, denominator)], axis=1)
    count = len(sums)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    above, below = (draws @ sums).T
    told = below != 0
    low, high = np.quantile(above[told] / below[told], [0.025, 0.975])
    return float(numerator.sum() / denominator.sum()), float(low), float(high)
