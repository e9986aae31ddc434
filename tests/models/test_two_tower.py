"""Two towers learn what can be learnt, and mask what is no negative."""

import dataclasses

import pytest
import torch
from torch import Tensor

from data.contract.settings import UserError, build
from models.attention import layout
from models.batch import Batch
from models.taste import Taste
from models.two_tower import NegativeSettings, TwoTower, TwoTowerSettings
from tests.models import cases
from tests.models.cases import Visit, rows_of, tables, visits

CYCLE = 12


def cycle_batch(draw: torch.Generator) -> Batch:
    """Users who walk a cycle of items: the next item is certain, popularity says nothing."""
    starts = torch.randint(0, CYCLE, (16,), generator=draw).tolist()
    made = [
        Visit(1 + s % 5, tuple(1 + (s + k) % CYCLE for k in range(5)), (1 + (s + 5) % CYCLE,))
        for s in starts
    ]
    batch = cases.two_tower_batch(made, pool=range(1, CYCLE + 1))
    nothing = torch.zeros(0, dtype=torch.int64)
    # Nothing is masked: an item of the window is wrong for all of its states but one.
    batch.inputs.update({f"known.{name}": nothing for name in ("sequence", "pool", "after")})
    batch.inputs["pool.log_q"] = torch.zeros(CYCLE)
    batch.inputs["positive.log_q"] = torch.zeros(len(batch.inputs["target.item"]))
    return batch


def top_items(core: TwoTower, of: dict[str, Tensor], histories: list[tuple[int, ...]]) -> list[int]:
    """The nearest item of 1..CYCLE to the vector of each history."""
    batch, _ = cases.shared([Visit(0, h, ()) for h in histories], range(1, CYCLE + 1))
    rows = rows_of(batch, of)
    with torch.no_grad():
        items = core.item_tower({**batch.inputs, "item_id.rows": rows["item_id"]})
        history = items[batch.inputs["history.item"]]
        inputs = {"user_id.rows": rows["user_id"], "history.embedding.rows": history}
        users = core.user_tower({**batch.inputs, **inputs})
    return (1 + (users @ items.T).argmax(1)).tolist()


def test_a_certain_world_is_learnt_to_certainty() -> None:
    sequence = dataclasses.replace(cases.SEQUENCE, dropout=0.0)
    settings = dataclasses.replace(
        cases.TWO_TOWER, temperature=0.1, sequence=sequence, id_dropout=0.0
    )
    core = cases.two_tower("position", settings).train()
    of = {name: table.requires_grad_() for name, table in tables().items()}
    optimizer = torch.optim.Adam([*core.parameters(), *of.values()], lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        batch = cycle_batch(draw)
        loss, _ = core(rows_of(batch, of), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    histories = [tuple(1 + (s + k) % CYCLE for k in range(4)) for s in range(CYCLE)]
    expected = [1 + (s + 4) % CYCLE for s in range(CYCLE)]
    assert top_items(core.eval(), of, histories) == expected


def test_the_loss_is_the_equation_over_the_pool() -> None:
    """One target, by hand: correction on both sides, known items left out."""
    core, made = cases.two_tower("position"), [Visit(3, (4, 9), (30,))]
    batch = cases.two_tower_batch(made, pool=[4, 17, 21])
    keep = batch.inputs["target.length"] == 2
    for name in ("target.sequence", "target.length", "target.item", "positive.log_q"):
        batch.inputs[name] = batch.inputs[name][keep]
    rows = rows_of(batch, tables())
    items = core.item_tower({**batch.inputs, "item_id.rows": rows["item_id"]})
    inputs = {"user_id.rows": rows["user_id"]}
    inputs["history.embedding.rows"] = items[batch.inputs["history.item"]]
    user = core.user_tower({**batch.inputs, **inputs})[0]
    place = dict(zip(batch.ids["item_id"].values.tolist(), items, strict=True))
    q = batch.inputs["pool.log_q"]
    positive = user @ place[30] / 0.07 + 1.5
    negatives = torch.stack([user @ place[17] / 0.07 - q[1], user @ place[21] / 0.07 - q[2]])
    expected = -positive + torch.cat([positive[None], negatives]).logsumexp(0)
    loss, _ = core(rows, batch)
    assert torch.allclose(loss, expected, atol=1e-4)


def test_a_known_item_is_no_negative() -> None:
    core, batch = cases.two_tower(), cases.two_tower_batch([Visit(3, (4, 9), (30,))], [4, 17])
    of = tables()
    losses = []
    for scale in (1.0, -5.0):
        changed = {name: table.clone() for name, table in of.items()}
        changed["item_id"][17] *= scale
        losses.append(core(rows_of(batch, changed), batch)[0])
    assert not torch.allclose(losses[0], losses[1])
    batch.inputs["known.sequence"] = torch.tensor([0, 0])
    batch.inputs["known.pool"] = torch.tensor([0, 1])
    batch.inputs["known.after"] = torch.zeros(2, dtype=torch.int64)
    assert float(core(rows_of(batch, of), batch)[0].detach()) == 0


def test_what_is_popular_on_the_day_is_learnt_as_a_prior() -> None:
    """Targets are the items of high counts that day, whoever asks and whatever they are."""
    core, of, draw = cases.two_tower().train(), tables(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(core.prior.parameters(), lr=1e-2)
    for _ in range(60):
        batch = cases.two_tower_batch(visits(8, int(torch.randint(99, (1,), generator=draw))))
        batch.inputs["target.trend.counts"] += 40
        loss, _ = core(rows_of(batch, of), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    now = cases.trends(torch.tensor([7, 7]), torch.tensor([0, 0]))
    now["trend.counts"][1] += 40
    quiet, popular = core.prior(now).tolist()
    assert popular > quiet + 0.05


def test_an_item_that_is_not_there_yet_is_no_negative() -> None:
    core, batch = cases.two_tower(), cases.two_tower_batch([Visit(3, (4, 9), (30,))], [17, 21])
    of = tables()
    batch.inputs["pool.absent"][:, 0] = True
    before = core(rows_of(batch, of), batch)[0]
    batch.inputs["pool.trend.counts"][:, 0] += 1000
    assert torch.equal(core(rows_of(batch, of), batch)[0], before)
    batch.inputs["pool.absent"][:] = True
    assert float(core(rows_of(batch, of), batch)[0].detach()) == 0


def test_without_log_q_frequencies_do_not_matter() -> None:
    plain = dataclasses.replace(cases.TWO_TOWER, negatives=NegativeSettings(log_q=False))
    for settings, same in ((plain, True), (cases.TWO_TOWER, False)):
        core, batch = cases.two_tower(settings=settings), cases.two_tower_batch(visits())
        before = core(rows_of(batch, tables()), batch)[0]
        batch.inputs["pool.log_q"] = batch.inputs["pool.log_q"] * 3
        after = core(rows_of(batch, tables()), batch)[0]
        assert torch.allclose(before, after) == same


def test_vectors_have_length_one() -> None:
    core, batch = cases.two_tower(), cases.two_tower_batch(visits())
    rows = rows_of(batch, tables())
    items = core.item_tower({**batch.inputs, "item_id.rows": rows["item_id"]})
    inputs = {"user_id.rows": rows["user_id"]}
    inputs["history.embedding.rows"] = items[batch.inputs["history.item"]]
    users = core.user_tower({**batch.inputs, **inputs})
    for vectors in (items, users):
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-5)


def test_taste_is_the_mean_of_what_was_liked_so_far() -> None:
    taste = Taste(cases.vocabulary())
    items = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 3.0], [2.0, 2.0]])
    save, hide = 1, 3
    action = torch.tensor([save, hide, save, save])
    places = layout(torch.tensor([3, 0, 1]), 4, 5)
    means = taste(items, action, places).detach()
    assert not means[:3].any()
    assert means[3:].tolist() == [[1, 0], [1, 0], [0.5, 1.5], [2, 2]]


def test_the_temperature_has_a_floor() -> None:
    core = cases.two_tower()
    with torch.no_grad():
        core.log_scale.fill_(99)
    assert float(core.temperature.detach()) == pytest.approx(0.01)
    with pytest.raises(UserError, match=r"two_tower.temperature must be at least 0.01"):
        cases.two_tower(settings=TwoTowerSettings(temperature=0.001))


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to learn against"):
        build(TwoTowerSettings, {"negatives": {"in_batch": 0, "random": 0}})


def test_weights_of_earlier_releases_load() -> None:
    core = cases.two_tower()
    earlier = core.state_dict() | {"prior.out.bias": torch.zeros(1)}
    core.load_state_dict(earlier)
    assert "prior.out.bias" not in core.state_dict()
