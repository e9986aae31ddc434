"""A feed gives every rank as many batches, and its progress counts those that were trained on."""

from itertools import pairwise

import pytest
import torch

from models.batch import Batch
from ray_jobs.engine import ranks
from ray_jobs.engine.feed import Feed, Taken
from ray_jobs.engine.meter import Meter
from ray_jobs.engine.streams import WHOLE, Portion, Prefetched, Progress, Ticket

BLOCKS = ((0, 3), (0, 4), (1, 4), (1, 3))  # (epoch, block), of two batches each


def rows(weight: float = 1.0) -> Batch:
    return Batch(ids={}, inputs={}, weight=torch.tensor([weight, 1.0]))


def portions(blocks: tuple[tuple[int, int], ...] = BLOCKS) -> list[Portion]:
    tickets = [Ticket(*block) for block in blocks]
    return [Portion(ticket, rows(), number) for ticket in tickets for number in (1, WHOLE)]


def feed_of(epochs: range = range(2), items: list[Portion] | None = None) -> Feed:
    given = portions() if items is None else items
    stream = Prefetched(iter(given), lambda: rows().muted())
    return Feed(stream, epochs, lambda batch: batch, Meter())


def test_epochs_follow_each_other_until_none_is_left() -> None:
    feed = feed_of()
    assert len(list(feed.next(3))) == 3
    assert not feed.ended
    assert len(list(feed.next(9))) == 5
    assert feed.ended
    assert [taken.epoch for taken in feed.taken] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert all(taken.rows == 2 for taken in feed.taken)
    assert not list(feed.next(1))


def test_what_is_taken_ahead_is_not_yet_progress() -> None:
    feed, progress = feed_of(), Progress()
    list(feed.next(6))
    for _ in range(3):
        feed.taken.popleft().count(progress)
    assert (progress.epoch, progress.batches) == (0, {3: WHOLE, 4: 1})
    for _ in range(2):
        feed.taken.popleft().count(progress)
    assert (progress.epoch, progress.batches) == (1, {4: 1})


def test_an_epoch_without_rows_is_passed_over() -> None:
    feed = feed_of(range(3), portions(((0, 1), (2, 1))))
    list(feed.next(9))
    assert [taken.epoch for taken in feed.taken] == [0, 0, 2, 2]
    feed.taken[2].count(progress := Progress())
    assert progress.epoch == 2


def test_no_epochs_are_none() -> None:
    feed = feed_of(range(4, 4))
    assert feed.ended
    assert not list(feed.next(1))


def test_a_rank_that_has_run_out_takes_steps_of_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    others = iter([(1, 7)] * 4 + [(0, 0)])

    def summed(mine: torch.Tensor) -> torch.Tensor:
        return mine + torch.tensor(next(others))

    monkeypatch.setattr(ranks, "summed", summed)
    feed = feed_of(range(1), portions(((0, 5),)))
    weights = [batch.weight.sum().item() for batch in feed.next(9)]
    assert weights == [2, 2, 0, 0]
    assert [taken.rows for taken in feed.taken] == [9, 9, 7, 7]
    before, *after = (taken.ticket for taken in list(feed.taken)[1:])
    assert before is not None
    assert after == [None, None]


def test_a_step_without_rows_of_this_rank_moves_only_the_epoch() -> None:
    progress = Progress(0, {3: WHOLE})
    Taken(0, None, 0, 7).count(progress)
    assert progress.batches == {3: WHOLE}
    Taken(1, None, 0, 7).count(progress)
    assert (progress.epoch, progress.batches) == (1, {})


def test_batches_come_in_the_order_of_the_stream() -> None:
    items = [Portion(Ticket(0, 1), rows(float(number)), number) for number in range(1, 6)]
    weights = [batch.weight[0].item() for batch in feed_of(range(1), items).next(9)]
    assert len(weights) == 5
    assert all(one < other for one, other in pairwise(weights))
