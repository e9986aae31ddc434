"""The ranker learns what can be learnt; its programs are its own parts."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from models.batch import Batch
from models.ranker import Ranker
from models.reading import Items, Reading
from tests.models import cases
from tests.models.cases import Visit, rows_of, tables, visits

TOPICS = 4


def noisy_batch(draw: torch.Generator, noise: float) -> Batch:
    """A click when the candidate has the topic of the history, turned over with `noise`."""
    topic = torch.randint(0, TOPICS, (24, 1), generator=draw)
    others = torch.randint(1, cases.NUM_ITEMS, (24, 4), generator=draw)
    history = TOPICS * torch.randint(1, 9, (24, 3), generator=draw) + topic
    rows = torch.cat([history, others], 1).tolist()
    batch = cases.ranker_batch([Visit(1, tuple(row[:3]), tuple(row[3:])) for row in rows])
    topics = batch.ids["item_id"].values % TOPICS
    batch.inputs.update({"item.content": one_hot(topics, 6).float()})
    like = (others % TOPICS == topic).flatten()
    turned = torch.rand(len(like), generator=draw) < noise
    nothing = torch.zeros(len(like))
    batch.labels.update({"label.click": (like ^ turned).float()})
    batch.labels.update({"label.save": nothing, "label.hide": nothing})
    return batch


def click_loss(core: torch.nn.Module, of: dict[str, Tensor], batch: Batch) -> Tensor:
    logits = core.logits(rows_of(batch, of), batch)[:, 1]
    labels = batch.labels["label.click"]
    return binary_cross_entropy_with_logits(logits, labels)


def test_a_noisy_world_is_learnt_to_its_entropy() -> None:
    noise, entropy = 0.1, 0.3251  # −.1 ln .1 − .9 ln .9
    settings = dataclasses.replace(cases.RANKER, id_dropout=0.0)
    core = cases.ranker("position", settings).train()
    of = {name: table.requires_grad_() for name, table in tables().items()}
    optimizer = torch.optim.Adam([*core.parameters(), *of.values()], lr=5e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(120):
        batch = noisy_batch(draw, noise)
        loss, _ = core(rows_of(batch, of), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    core.eval()
    with torch.no_grad():
        found = [float(click_loss(core, of, noisy_batch(draw, noise))) for _ in range(20)]
    assert entropy - 0.03 < sum(found) / len(found) < entropy + 0.05


def listening() -> Ranker:
    """A ranker that makes something of contexts, as one does that has learnt from some."""
    core = cases.ranker()
    with torch.no_grad():
        core.over.related.weight.normal_()
        core.user.about.weight.normal_()
    return core


def encoded(core: Ranker, prefix: str, items: Tensor) -> dict[str, Tensor]:
    """Items as their own program encodes them, under their names in another."""
    columns = cases.columns(cases.ITEM_FEATURES, "item", items)
    found = core.item_program(columns | {"item_id.rows": tables()["item_id"][items]})
    return {f"{prefix}{name}": part for name, part in zip(Items._fields, found, strict=True)}


def programs_answer(core: Ranker, visit: Visit) -> Tensor:
    """Logits of one visit by the three programs."""
    history, asked = torch.tensor(visit.history, dtype=torch.int64), torch.tensor(visit.asked)
    batch, _ = cases.shared([visit])
    user = {
        **batch.inputs,
        "user_id.rows": tables()["user_id"][[visit.user]],
        "request.has_context": torch.tensor([float(visit.context > 0)]),
        **encoded(core, "history.", history),
        **encoded(core, "context.", torch.tensor([visit.context])),
    }
    state = dict(zip(Reading._fields, core.user_program(user), strict=True))
    items = {"position": torch.zeros_like(asked), **cases.record(asked)}
    items |= encoded(core, "candidate.", asked)
    of_one = {name: array.unsqueeze(0) for name, array in items.items()}
    logits: Tensor = core.items_program({**state, **of_one})
    return logits[0]


@pytest.mark.parametrize("index", [0, 1, 5])
@pytest.mark.parametrize("context", [0, 7])
def test_the_programs_answer_as_the_whole_does(index: int, context: int) -> None:
    made = [dataclasses.replace(v, context=context * (v.user % 2)) for v in visits(6)]
    core, batch = listening(), cases.ranker_batch(made)
    batch.inputs["candidate.position"] = torch.zeros_like(batch.inputs["candidate.position"])
    logits = core.logits(rows_of(batch, tables()), batch)
    expected = logits.split(batch.inputs["candidate.lengths"].tolist())[index]
    assert torch.allclose(programs_answer(core, made[index]), expected, atol=1e-5)


@pytest.mark.parametrize("context", [0, 7, 9])
def test_a_ranker_that_never_saw_a_context_takes_no_notice_of_one(context: int) -> None:
    core, made = cases.ranker(), [dataclasses.replace(v, context=0) for v in visits(6)]
    plain = cases.ranker_batch(made)
    optimiser = torch.optim.AdamW(core.parameters(), 0.01, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        core(rows_of(plain, tables()), plain)[0].backward()
        optimiser.step()
    core.eval()
    about = cases.ranker_batch([dataclasses.replace(v, context=context) for v in made])
    before, after = (core.logits(rows_of(b, tables()), b) for b in (plain, about))
    assert torch.equal(before, after)


def test_a_student_comes_to_answer_as_its_teacher_does() -> None:
    made = visits(8)
    teacher, batch = cases.ranker(), cases.ranker_batch(made)
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        answers = teacher.logits(rows_of(batch, tables()), batch).sigmoid()
    labels = {f"teacher.{a}": answers[:, at] for at, a in enumerate(teacher.actions)}
    gaps = []
    for extra in ({}, labels):
        torch.manual_seed(0)
        core = cases.ranker().train()
        optimiser = torch.optim.Adam(core.parameters(), lr=0.01)
        taught = dataclasses.replace(batch, labels=batch.labels | extra)
        for _ in range(40):
            optimiser.zero_grad()
            core(rows_of(taught, tables()), taught)[0].backward()
            optimiser.step()
        found = core.eval().logits(rows_of(batch, tables()), batch).sigmoid()
        gaps.append(float((found - answers).abs().mean().detach()))
    assert gaps[1] < 0.7 * gaps[0]


def test_what_lies_past_a_history_does_not_matter() -> None:
    core, made = cases.ranker(), visits(4)
    batch = cases.ranker_batch(made)
    rows = rows_of(batch, tables())
    items = core.item.described({**batch.inputs, "item_id.rows": rows["item_id"]})
    inputs = {**batch.inputs, "user_id.rows": rows["user_id"]}
    about = items.take(torch.arange(len(made)))
    past = items.take(inputs["history.item"])
    read = core.user(inputs, past, about, cases.SEQUENCE.max_length)
    assert (read.mask == 0).sum(1).tolist() == [1 + len(v.history) for v in made]
    candidates = Items(*(part[:8].expand(len(made), -1, -1) for part in items))
    position = torch.zeros(len(made), 8, dtype=torch.int64)
    record = torch.randn(len(made), 8, core.record.width)
    before = core.over(read, candidates, position, record)
    past = (read.mask < 0).unsqueeze(-1)
    keys, known = (x + torch.randn(x.shape) * past for x in (read.keys, read.items))
    noisy = read._replace(keys=keys, items=known)
    assert torch.equal(core.over(noisy, candidates, position, record), before)


def test_position_is_a_bias_that_is_zero_where_serving_ranks() -> None:
    core, made = cases.ranker(), visits(3)
    with torch.no_grad():
        core.over.position.weight.normal_()
    batch = cases.ranker_batch(made)
    found = []
    for position in (0, 3, 9_999):
        batch.inputs["candidate.position"] = torch.full_like(
            batch.inputs["candidate.item"], position
        )
        found.append(core.logits(rows_of(batch, tables()), batch))
    bias = core.over.position.weight
    assert torch.allclose(found[1] - found[0], (bias[3] - bias[0]).expand_as(found[0]), atol=1e-5)
    assert torch.allclose(found[2] - found[0], (bias[-1] - bias[0]).expand_as(found[0]), atol=1e-5)
    fresh = cases.ranker()
    unbiased = fresh.logits(rows_of(batch, tables()), batch)
    assert torch.allclose(unbiased, found[0], atol=1e-6)


def test_an_action_counts_by_its_weight() -> None:
    batch = cases.ranker_batch(visits(6))
    losses = {}
    for weights in ({}, {"save": 3.0}, {"save": 3.0, "hide": 5.0}):
        core = cases.ranker(settings=dataclasses.replace(cases.RANKER, action_weights=weights))
        losses[len(weights)] = float(core(rows_of(batch, tables()), batch)[0].detach())
    save, hide = losses[1] - losses[0], losses[2] - losses[1]
    assert save > 0
    assert hide > 0
    core = cases.ranker()
    logits = core.logits(rows_of(batch, tables()), batch)
    each = binary_cross_entropy_with_logits(logits[:, 0], batch.labels["label.save"])
    assert save == pytest.approx(2 * float(each.detach()), abs=1e-5)
