"""The loop halts where it is asked to, with the progress of exactly the steps that it took."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from models.batch import Batch, Jagged
from models.embeddings import Table, shard
from models.table_shards import full_tables
from ray_jobs.engine.loop import Learner, TrainSettings, TrainState, train
from ray_jobs.engine.schedule import Schedule
from ray_jobs.engine.streams import WHOLE, Portion, Prefetched, Progress, Ticket

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.(script|interface). is deprecated"),
    pytest.mark.filterwarnings("ignore:Please use DTensor instead:FutureWarning"),
    pytest.mark.usefixtures("one_rank"),
]
BATCHES = 4  # of a block
SETTINGS = TrainSettings(max_epochs=2, validate_every=3, checkpoint_every=5, log_every=2)
SCHEDULE = Schedule(warmup_steps=2, max_steps=100, final_rate=0.1)


class Noisy(nn.Module):
    """Reads its rows through dropout, so that a step depends on its seed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.read = nn.Linear(4, 1)

    def forward(self, rows: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        kept = nn.functional.dropout(rows["item_id"], 0.5)
        error = self.read(kept).squeeze(1) - batch.labels["rating"]
        return error.square().mean(), {"error": error.detach().abs().mean()}


@dataclass
class Notes:
    """What an observer was told."""

    stop_at: int = 10**9
    validated_at: list[int] = field(default_factory=list)
    saved: dict[int, tuple[Progress, dict[str, Tensor]]] = field(default_factory=dict)
    lines: list[dict[str, float]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    def logged(self, line: dict[str, float]) -> None:
        self.lines.append(line)

    def checkpoint(self, learner: Learner, state: TrainState) -> None:
        progress = Progress(state.progress.epoch, dict(state.progress.batches))
        self.saved[state.step] = progress, weights_of(learner)
        self.order.append(f"saved {state.step}")

    def validated(self, learner: Learner, state: TrainState) -> bool:
        del learner
        self.validated_at.append(state.step)
        self.order.append(f"validated {state.step}")
        state.validations.append({"step": state.step})
        return state.step >= self.stop_at


def weights_of(learner: Learner) -> dict[str, Tensor]:
    tables = full_tables(learner.model.module)
    return {name: w.clone() for name, w in (tables | learner.model.core.state_dict()).items()}


def learner_of() -> Learner:
    model = shard(Noisy(), [Table("item_id", 50, 4)], 0.5, seed=3)
    return Learner(model, torch.optim.AdamW(model.core.parameters(), lr=0.1), 0.1, 0.5)


def portions() -> Iterator[Portion]:
    """Two epochs of two blocks."""
    for epoch, block, number in product(range(2), range(2), range(BATCHES)):
        draw = torch.Generator().manual_seed(100 * epoch + 10 * block + number)
        ids = torch.randint(1, 50, (6,), generator=draw)
        rows = Batch(
            ids={"item_id": Jagged(ids, torch.ones(6, dtype=torch.long))},
            inputs={},
            labels={"rating": torch.randn(6, generator=draw)},
            weight=torch.ones(6),
        )
        yield Portion(Ticket(epoch, block), rows, WHOLE if number == BATCHES - 1 else number + 1)


def run(
    notes: Notes, max_steps: int = 100, begun: TrainState | None = None
) -> tuple[Learner, TrainState]:
    learner, stream = learner_of(), Prefetched(portions(), lambda: next(portions()).batch)
    schedule = replace(SCHEDULE, max_steps=max_steps)
    state = train(learner, stream, begun or TrainState(), SETTINGS, schedule, notes)
    stream.close()
    return learner, state


def test_all_rows_of_all_epochs_are_trained_on_once() -> None:
    notes = Notes()
    _, state = run(notes)
    assert state.step == 2 * 2 * BATCHES
    assert state.rows == 6 * state.step
    assert (state.progress.epoch, state.progress.batches) == (1, {0: WHOLE, 1: WHOLE})
    assert notes.validated_at == [3, 6, 9, 12, 15]
    assert sorted(notes.saved) == [5, 10, 15]
    assert [line["step"] for line in notes.lines] == list(range(2, 17, 2))


def test_a_checkpoint_holds_the_progress_of_the_steps_before_it() -> None:
    notes = Notes()
    run(notes)
    found = {step: (p.epoch, p.batches) for step, (p, _) in notes.saved.items()}
    assert found == {5: (0, {0: WHOLE, 1: 1}), 10: (1, {0: 2}), 15: (1, {0: WHOLE, 1: 3})}


def test_a_checkpoint_holds_the_weights_of_the_steps_before_it() -> None:
    notes = Notes()
    run(notes)
    stopped = weights_of(run(Notes(stop_at=15))[0])
    assert all(torch.equal(w, stopped[name]) for name, w in notes.saved[15][1].items())


def test_a_training_ends_where_the_schedule_or_the_observer_says() -> None:
    assert run(Notes(), max_steps=7)[1].step == 7
    notes = Notes(stop_at=6)
    assert run(notes)[1].step == 6
    assert notes.validated_at == [3, 6]


def test_a_checkpoint_goes_before_the_validation_of_its_step() -> None:
    notes = Notes()
    run(notes, max_steps=15)
    assert notes.order[-2:] == ["saved 15", "validated 15"]


def test_a_validation_that_a_kill_has_cut_short_is_made_up_for_and_no_other() -> None:
    notes = Notes()
    run(notes, max_steps=16, begun=TrainState(step=15))
    assert notes.order == ["validated 15"]
    notes = Notes()
    run(notes, max_steps=16, begun=TrainState(step=15, validations=[{"step": 15}]))
    assert notes.order == []
    notes = Notes(stop_at=15)
    assert run(notes, begun=TrainState(step=15))[1].step == 15


def test_halts_change_nothing_of_what_is_learnt() -> None:
    often = run(Notes())[0]
    stream = Prefetched(portions(), lambda: next(portions()).batch)
    seldom = learner_of()
    rare = replace(SETTINGS, validate_every=1000, checkpoint_every=1000)
    train(seldom, stream, TrainState(), rare, SCHEDULE, Notes())
    expected = weights_of(often)
    assert all(torch.equal(w, expected[name]) for name, w in weights_of(seldom).items())
