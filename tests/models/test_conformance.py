"""Every model, by the same behaviours."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data.contract.schema import USER_COLUMN
from models.batch import Batch
from models.export import Program, parity, write_programs
from models.interaction import CrossingSettings
from models.towers import Answers
from serve.programs import Program as ServedProgram
from tests.models import cases
from tests.models.cases import Visit, rows_of, tables, visits

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Subject:
    """A model, batches for it, and what it says of each visit: one tensor a visit.

    A model that reads all nodes at every step looks up none and has learnt the histories before.
    Some have parts that learn from targets drawn in training; some read no history.
    """

    build: Callable[..., nn.Module]
    batch: Callable[[Sequence[Visit]], Batch]
    answers: Callable[[nn.Module, Batch, dict[str, Tensor]], list[Tensor]]
    ordered: bool = True
    looks_up: bool = True
    draws: bool = False
    reads: bool = True


def user_vectors(core: nn.Module, batch: Batch, of: dict[str, Tensor]) -> list[Tensor]:
    """Two-tower and user model: the vectors of every prefix of each visit's history."""
    rows = rows_of(batch, of)
    items = core.item_tower({**batch.inputs, "item_id.rows": rows["item_id"]})
    history = items[batch.inputs["history.item"]]
    looked_up = {"user_id.rows": rows.get("user_id"), "history.embedding.rows": history}
    lengths = batch.inputs["history.lengths"]
    sequence = torch.arange(len(lengths))
    owner = torch.cat([sequence, sequence.repeat_interleave(lengths)])
    long_term = batch.inputs.get(f"user.{USER_COLUMN}")
    states = core.user_tower.project(
        core.user_tower.states({**batch.inputs, **looked_up}),
        None if long_term is None else long_term[owner],
    )
    starts, events = states[: len(lengths)], states[len(lengths) :].split(lengths.tolist())
    return [torch.cat([start[None], rest]) for start, rest in zip(starts, events, strict=True)]


def focused_vectors(core: nn.Module, batch: Batch, of: dict[str, Tensor]) -> list[Tensor]:
    """Two-tower: each visit's newest vector, those of its interests and under its condition."""
    rows = rows_of(batch, of)
    items = core.item_tower({**batch.inputs, "item_id.rows": rows["item_id"]})
    history = items[batch.inputs["history.item"]]
    looked_up = {"user_id.rows": rows["user_id"], "history.embedding.rows": history}
    found = Answers(core.user_tower)({**batch.inputs, **looked_up})
    embedding, interests, shares, conditioned = found
    there = interests * (shares > 0).unsqueeze(2)
    return list(torch.cat([conditioned[:, None], there, embedding[:, None]], 1))


def candidate_logits(core: nn.Module, batch: Batch, of: dict[str, Tensor]) -> list[Tensor]:
    """Ranker: the logits of each visit's candidates."""
    logits = core.logits(rows_of(batch, of), batch)
    return list(logits.split(batch.inputs["candidate.lengths"].tolist()))


def node_vectors(core: nn.Module, batch: Batch, of: dict[str, Tensor]) -> list[Tensor]:
    """Graph: the vector of each visit's user, who is known by their history."""
    vectors = core.nodes(rows_of(batch, of), batch.inputs)
    return list(vectors[len(batch.inputs["node.item"]) :].unsqueeze(1))


def user_nodes(core: nn.Module, batch: Batch, of: dict[str, Tensor]) -> list[Tensor]:
    """LightGCN: the vector of each visit's user."""
    users, _ = core.nodes()
    return list(users[batch.inputs["visit.user"]].unsqueeze(1))


def graph_of(encoder: str) -> Subject:
    settings = dataclasses.replace(cases.GRAPH, encoder=encoder)

    def build(order: str = "clock") -> nn.Module:
        return cases.graph(order, settings)

    return Subject(build, cases.graph_batch, node_vectors, ordered=False)


TWO_TOWER = Subject(cases.two_tower, cases.two_tower_batch, user_vectors)
ID = Subject(cases.id_rows, cases.two_tower_batch, user_vectors, reads=False)
USER = Subject(cases.user, cases.user_batch, user_vectors)
RANKER = Subject(cases.ranker, cases.ranker_batch, candidate_logits)
FORMS = {
    f"ranker_{history}": dataclasses.replace(
        RANKER,
        build=partial(cases.ranker, settings=dataclasses.replace(cases.RANKER, history=history)),
    )
    for history in ("fusion", "appended")
}
GRAPHS = {f"graph_{kind}": graph_of(kind) for kind in ("convolution", "transformer", "propagation")}
LIGHT_GCN = Subject(cases.light_gcn, cases.interaction_batch, user_nodes, False, looks_up=False)
POINTWISE = dataclasses.replace(
    cases.USER, sequence=dataclasses.replace(cases.SEQUENCE, block="pointwise")
)
CROSSED = dataclasses.replace(
    cases.TWO_TOWER,
    crossing=CrossingSettings(layers=("mlp+masks", "mlp+fields+cross"), width=8, hidden=16),
)
SUBJECTS = {
    "two_tower": TWO_TOWER,
    "two_tower_crossed": dataclasses.replace(
        TWO_TOWER, build=partial(cases.two_tower, settings=CROSSED)
    ),
    "two_tower_long_term": Subject(cases.long_term, cases.long_term_batch, user_vectors),
    "two_tower_long_term_crossed": Subject(
        partial(cases.long_term, settings=CROSSED), cases.long_term_batch, user_vectors
    ),
    "two_tower_focused": Subject(cases.focused, cases.focused_batch, focused_vectors, draws=True),
    "two_tower_focused_crossed": Subject(
        partial(
            cases.focused, settings=dataclasses.replace(cases.FOCUSED, crossing=CROSSED.crossing)
        ),
        cases.focused_batch,
        focused_vectors,
        draws=True,
    ),
    "id": ID,
    "user": USER,
    "user_pointwise": dataclasses.replace(USER, build=partial(cases.user, settings=POINTWISE)),
    "ranker": RANKER,
    **FORMS,
    **GRAPHS,
    "light_gcn": LIGHT_GCN,
}
READING = {name: s for name, s in SUBJECTS.items() if s.looks_up and s.reads}
LOOKING_UP = {name: subject for name, subject in SUBJECTS.items() if subject.looks_up}
subjects = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
readers = pytest.mark.parametrize("subject", LOOKING_UP.values(), ids=LOOKING_UP)
historians = pytest.mark.parametrize("subject", READING.values(), ids=READING)
orders = pytest.mark.parametrize("order", ["clock", "position", "none"])


def loss_of(subject: Subject, core: nn.Module, made: Sequence[Visit]) -> Tensor:
    batch = subject.batch(made)
    loss, _ = core(rows_of(batch, tables()), batch)
    return loss


def answers(subject: Subject, core: nn.Module, made: Sequence[Visit]) -> list[Tensor]:
    with torch.no_grad():
        return subject.answers(core, subject.batch(made), tables())


def gradients(core: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in core.named_parameters() if p.grad is not None}


@orders
@subjects
def test_gradient_reaches_every_parameter(subject: Subject, order: str) -> None:
    core = subject.build(order).train(subject.draws)
    loss_of(subject, core, visits(16)).backward()
    silent = {name for name, p in core.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == set()


@readers
def test_gradient_reaches_the_rows_of_items_and_users(subject: Subject) -> None:
    core, batch = subject.build(), subject.batch(visits(8))
    rows = {name: r.requires_grad_() for name, r in rows_of(batch, tables()).items()}
    core(rows, batch)[0].backward()
    for looked_up in rows.values():
        assert looked_up.grad is not None
        assert looked_up.grad.any(1).all()


@orders
@subjects
def test_an_answer_does_not_depend_on_its_batch(subject: Subject, order: str) -> None:
    core, made = subject.build(order), visits(8)
    together = answers(subject, core, made)
    for visit, answer in zip(made, together, strict=True):
        assert torch.allclose(answers(subject, core, [visit])[0], answer, atol=TOLERANCE)


@subjects
def test_the_loss_of_a_batch_is_the_mean_over_its_visits(subject: Subject) -> None:
    """Where each visit has as many targets, that is; and both batches the same pool."""
    core = subject.build()
    made = [Visit(user=u, history=(3, 9 + u), asked=(30, 31)) for u in range(1, 5)]
    apart = torch.stack([loss_of(subject, core, [visit]) for visit in made])
    assert torch.allclose(loss_of(subject, core, made), apart.mean(), atol=TOLERANCE)


@subjects
def test_a_filler_changes_neither_loss_nor_gradient(subject: Subject) -> None:
    core, made = subject.build(), visits(6)
    filler = dataclasses.replace(visits(9)[-1], weight=0.0)
    losses, found = [], []
    for batch in (made, [*made, filler]):
        core.zero_grad()
        losses.append(loss_of(subject, core, batch))
        losses[-1].backward()
        found.append({name: g.clone() for name, g in gradients(core).items()})
    assert torch.allclose(losses[0], losses[1], atol=TOLERANCE)
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=TOLERANCE), name


@subjects
def test_weight_counts_like_repetition(subject: Subject) -> None:
    core, (first, *others) = subject.build(), visits(5)
    heavy = dataclasses.replace(first, weight=2.0)
    weighted = loss_of(subject, core, [heavy, *others])
    assert torch.allclose(weighted, loss_of(subject, core, [first, first, *others]), atol=TOLERANCE)


@subjects
def test_unknown_users_and_items_have_answers(subject: Subject) -> None:
    unknown = Visit(user=0, history=(0, 5, 0), asked=(0, 7))
    (found,) = answers(subject, subject.build(), [unknown])
    assert torch.isfinite(found).all()
    assert torch.isfinite(loss_of(subject, subject.build(), [unknown, Visit(0, (), (0,))]))


@historians
def test_the_history_matters_and_its_order_too(subject: Subject) -> None:
    core, history = subject.build("position"), (4, 8, 15)
    made = [Visit(1, history, (5, 6)), Visit(1, history[::-1], (5, 6)), Visit(1, (), (5, 6))]
    forward, backward, empty = (a[-1] for a in answers(subject, core, made))
    assert torch.allclose(forward, backward, atol=1e-4) != subject.ordered
    assert not torch.allclose(forward, empty, atol=1e-4)


@subjects
def test_dropout_is_for_training_alone(subject: Subject) -> None:
    core, made = subject.build(), visits(6)
    assert torch.equal(loss_of(subject, core, made), loss_of(subject, core, made))
    core.train()
    assert not torch.equal(loss_of(subject, core, made), loss_of(subject, core, made))


@subjects
def test_products_in_bfloat16_give_nearly_the_loss_of_single_precision(subject: Subject) -> None:
    core, losses = subject.build().train(), []
    for enabled in (False, True):
        torch.manual_seed(0)  # of what is dropped and drawn
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(loss_of(subject, core, visits(16)))
    losses[1].backward()
    assert torch.allclose(losses[1].float(), losses[0], rtol=0.03)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(core).values())


@pytest.mark.gpu
@subjects
def test_a_gpu_gives_the_loss_of_a_cpu(subject: Subject) -> None:
    core, made = subject.build(), subject.batch(visits(16))
    expected, _ = core(rows_of(made, tables()), made)
    gpu = torch.device("cuda")
    rows = {name: looked_up.to(gpu) for name, looked_up in rows_of(made, tables()).items()}
    loss, _ = core.to(gpu)(rows, made.to(gpu))
    loss.backward()
    assert torch.allclose(loss.cpu(), expected, rtol=1e-3)


@readers
def test_tables_are_named_after_the_ids_of_a_batch(subject: Subject) -> None:
    made = subject.build().tables(num_items=40, num_users=20)
    sizes = {"item_id": 40, "user_id": 20}
    assert {t.name: t.num_embeddings for t in made} == {t.name: sizes[t.name] for t in made}
    assert {table.name for table in made} == subject.batch(visits()).ids.keys()


@subjects
def test_logs_carry_no_gradient(subject: Subject) -> None:
    core, batch = subject.build(), subject.batch(visits())
    _, logs = core(rows_of(batch, tables()), batch)
    assert "loss" in logs
    assert not any(value.requires_grad for value in logs.values())


@subjects
def test_programs_give_what_the_module_gives(subject: Subject, tmp_path: Path) -> None:
    programs = subject.build().programs()
    write_programs(programs, tmp_path)
    for name, program in programs.items():
        served = ServedProgram(tmp_path / f"{name}.onnx")
        for size in (1, 2, 5):
            inputs = resized(program, size)
            assert parity(program, served, inputs) < TOLERANCE, (name, size)


def resized(program: Program, size: int) -> dict[str, Tensor]:
    """Random inputs of a program with `size` users or items, the first list being empty."""
    draw, example = torch.Generator().manual_seed(size), program.inputs
    lists = {name.removesuffix(".lengths") for name in example if name.endswith(".lengths")}
    each = torch.arange(size) % 4
    counts = {axis: size for name in example for axis in program.axes(name)}
    of_lists = {axis for name in lists for axis in program.axes(f"{name}.values")}
    counts |= dict.fromkeys({*of_lists, "events"}, int(each.sum()))
    made = {}
    for name, tensor in example.items():
        shape = [counts.get(axis, axis) for axis in program.shape(name)]
        if name.endswith(".lengths"):
            rows = shape[0]
            made[name] = each if rows == size else torch.ones(rows, dtype=torch.int64)
        elif tensor.is_floating_point():
            made[name] = torch.randn(shape, generator=draw)
        else:
            made[name] = torch.randint(0, min(3, size), shape, generator=draw)
    for name in made:
        if name.endswith(".values"):
            total = int(made[name.replace(".values", ".lengths")].sum())
            made[name] = torch.randint(0, 99, (total,), generator=draw)
    return made
