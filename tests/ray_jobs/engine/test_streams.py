"""Every row of an epoch is read exactly once, by any number of ranks, interrupted or not."""

import itertools
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.blocks import Block
from models.batch import Batch
from ray_jobs.engine.streams import (
    WHOLE,
    BlockPlan,
    Prefetched,
    Progress,
    portions,
    spare_batch,
    tickets,
)

ROWS = 12


def plan_of(num_blocks: int, seed: int = 0) -> BlockPlan:
    blocks = tuple(Block(Path("none"), number, ROWS, 8 * ROWS) for number in range(num_blocks))
    return BlockPlan(blocks, seed)


def read_numbers(blocks: Iterable[Block]) -> Iterator[pa.Table]:
    for block in blocks:
        yield pa.table({"row": np.arange(ROWS) + ROWS * block.row_group})


def collate(table: pa.Table, rng: np.random.Generator) -> Iterator[Batch]:
    rows = rng.permutation(table["row"].to_numpy())
    for chunk in np.array_split(rows, 4):
        yield Batch(ids={}, inputs={"row": torch.from_numpy(chunk)}, weight=torch.ones(len(chunk)))


def no_spare() -> Batch:
    raise AssertionError("one rank needs no spare batch")


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 40))
def test_rows_of_an_epoch_are_read_once_though_the_number_of_ranks_changes(
    num_blocks: int, before: int, after: int, stop: int
) -> None:
    plan, seen = plan_of(num_blocks), []
    progress = Progress()
    for rank in range(before):
        todo = tickets(plan, Progress(), 1, rank, before)
        for portion in itertools.islice(portions(plan, todo, collate, read_numbers), stop):
            seen += portion.batch.inputs["row"].tolist()
            progress.batches[portion.ticket.block] = portion.consumed
    for rank in range(after):
        todo = tickets(plan, progress, 1, rank, after)
        for portion in portions(plan, todo, collate, read_numbers):
            seen += portion.batch.inputs["row"].tolist()
    assert sorted(seen) == list(range(ROWS * num_blocks))


def test_a_finished_block_is_marked_whole() -> None:
    plan = plan_of(2)
    marks = [
        p.consumed
        for p in portions(plan, tickets(plan, Progress(), 1, 0, 1), collate, read_numbers)
    ]
    assert marks == [1, 2, 3, WHOLE] * 2


def test_epochs_differ_in_order_and_runs_of_one_seed_do_not() -> None:
    assert plan_of(30).order(0) != plan_of(30).order(1)
    assert plan_of(30).order(3) == plan_of(30).order(3)
    assert plan_of(30, seed=1).order(0) != plan_of(30, seed=2).order(0)


def test_progress_survives_json() -> None:
    progress = Progress(3, {4: WHOLE, 7: 2})
    assert Progress.from_tree(progress.to_tree()) == progress


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3))
def test_ranks_that_resume_lose_no_progress_to_what_others_knew_before(
    attempts: list[tuple[int, int]],
) -> None:
    plan, seen, merged = plan_of(5), [], Progress()
    for world_size, stop in [*attempts, (2, 100)]:
        states = [Progress(merged.epoch, dict(merged.batches)) for _ in range(world_size)]
        for rank, state in enumerate(states):
            todo = tickets(plan, merged, 1, rank, world_size)
            for portion in itertools.islice(portions(plan, todo, collate, read_numbers), stop):
                seen += portion.batch.inputs["row"].tolist()
                state.batches[portion.ticket.block] = portion.consumed
        merged = Progress()
        for state in states:
            merged.absorb(state)
    assert sorted(seen) == list(range(ROWS * 5))


def test_what_is_consumed_later_is_not_left_out() -> None:
    plan, progress = plan_of(3), Progress()
    todo = tickets(plan, progress, 2, 0, 1)
    progress.batches = {0: WHOLE, 1: 2}
    assert [(t.epoch, t.skip) for t in todo] == [(0, 0)] * 3 + [(1, 0)] * 3


def peak_of_first_portion(plan: BlockPlan, max_epochs: int) -> int:
    """Most bytes that were held until there was one."""
    tracemalloc.start()
    try:
        todo = tickets(plan, Progress(), max_epochs, 0, 1)
        next(portions(plan, todo, collate, read_numbers))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_stream_of_many_epochs_begins_with_as_little_memory_as_one_of_one() -> None:
    plan = plan_of(500)
    peak_of_first_portion(plan, 1)  # what is made once in a process
    one, many = peak_of_first_portion(plan, 1), peak_of_first_portion(plan, 1000)
    assert many == pytest.approx(one, rel=0.1)


def test_a_prefetched_stream_hands_over_errors_and_ends_epochs() -> None:
    plan = plan_of(1)
    todo = tickets(plan, Progress(), 2, 0, 1)
    stream = Prefetched(portions(plan, todo, collate, read_numbers), no_spare)
    taken = [stream.take(0) for _ in range(5)]
    assert [portion is None for portion in taken] == [False] * 4 + [True]
    assert stream.take(1) is not None
    stream.close()

    def broken() -> Iterator[None]:
        raise OSError("disk on fire")
        yield

    with pytest.raises(OSError, match="disk on fire"):
        Prefetched(broken(), no_spare).peek()  # type: ignore[arg-type]


def test_a_spare_batch_has_no_weight() -> None:
    batch = spare_batch(plan_of(2), collate, read_numbers)
    assert len(batch.weight) == 3
    assert not batch.weight.any()


def test_a_spare_batch_reads_no_further_than_the_first_rows() -> None:
    asked: list[int] = []

    def read(blocks: Iterable[Block]) -> Iterator[pa.Table]:
        for block in blocks:
            asked.append(block.row_group)
            yield from read_numbers([block])

    spare_batch(plan_of(5), collate, read)
    assert asked == [0]
