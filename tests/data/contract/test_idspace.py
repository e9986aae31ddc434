from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract import idspace
from data.contract.idspace import IdSpace, hash_ids
from data.contract.settings import UserError

INTS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=60)
TEXTS = st.lists(st.text(max_size=6), unique=True, max_size=60)


def space_of(ids: list[Any], kind: pa.DataType, buckets: int = 4) -> IdSpace:
    return extended(IdSpace.empty("item", kind, buckets), ids)


def extended(space: IdSpace, ids: list[Any], time: int = 0) -> IdSpace:
    times = np.full(len(ids), time, np.int64)
    return space.extend(pa.array(ids, space.ids.type), times, times)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_input_with_5_percent_new_and_2_percent_gone_keeps_every_row(
    as_text: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.choice(1 << 60, 2100, replace=False)
    ids = [str(n) for n in numbers] if as_text else numbers.tolist()
    kind = pa.string() if as_text else pa.int64()
    first = space_of(ids[:2000], kind)
    shuffled = rng.permutation(np.array(ids[40:], dtype=object)).tolist()
    second = extended(first, shuffled)
    known = pa.array(ids[:2000], kind)
    assert (first.lookup(known) == second.lookup(known)).all()
    assert second.rows == first.rows + 100
    assert (second.lookup(pa.array(ids[2000:], kind)) >= first.rows).all()


@given(INTS | TEXTS, st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_the_order_of_the_input(ids: list[Any], random: Any) -> None:
    kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    shuffled = ids.copy()
    random.shuffle(shuffled)
    assert space_of(ids, kind).ids.equals(space_of(shuffled, kind).ids)


@given(INTS | TEXTS)
def test_a_look_up_of_admitted_ids_and_its_inverse_agree(ids: list[Any]) -> None:
    kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    space = space_of(ids, kind)
    rows = space.lookup(pa.array(ids, kind))
    assert sorted(rows.tolist()) == list(range(space.first_row, space.rows))
    assert space.external(rows).to_pylist() == ids


@given(TEXTS, TEXTS)
def test_ids_that_are_not_admitted_share_the_buckets(known: list[str], others: list[str]) -> None:
    space = space_of(known, pa.string())
    strange = [text for text in others if text not in known]
    rows = space.lookup(pa.array(strange, pa.string()))
    assert ((rows >= 1) & (rows <= 4)).all()
    assert (rows == space.lookup(pa.array(strange, pa.string()))).all()
    assert space.external(rows).null_count == len(strange)


def test_a_null_id_is_the_unknown_row() -> None:
    space = space_of([0, 7], pa.int64())
    assert space.lookup(pa.array([None, 7], pa.int64())).tolist()[0] == 0
    assert space_of([0], pa.int64(), buckets=0).lookup(pa.array([5])).tolist() == [0]


def test_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idspace, "hash_ids", lambda ids: np.full(len(ids), 7, np.uint64))
    space = space_of(["a", "b", "c"], pa.string())
    rows = space.lookup(pa.array(["c", "a", "b", "d"]))
    assert sorted(rows[:3].tolist()) == [5, 6, 7]
    assert rows[3] == 1 + 7 % 4
    assert extended(space, ["b", "d"]).rows == space.rows + 1


def test_the_seen_span_of_an_id_only_widens() -> None:
    space = extended(extended(space_of([], pa.int64()), [1, 2], time=50), [2], time=30)
    space = extended(space, [2], time=90)
    at = space.lookup(pa.array([1, 2])) - space.first_row
    assert space.first_seen[at].tolist() == [50, 30]
    assert space.last_seen[at].tolist() == [50, 90]


@given(INTS | TEXTS)
def test_a_saved_space_opens_the_same(tmp_path_factory: Any, ids: list[Any]) -> None:
    kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    folder = tmp_path_factory.mktemp("ids")
    space = space_of(ids, kind)
    space.save(folder)
    opened = IdSpace.open(folder)
    assert opened.reference() == space.reference()
    assert opened.buckets == space.buckets
    assert (opened.lookup(pa.array(ids, kind)) == space.lookup(pa.array(ids, kind))).all()


def test_ids_of_another_type_are_cast_or_refused() -> None:
    space = space_of([1, 2], pa.int64())
    assert (space.lookup(pa.array(["1", "2"])) == space.lookup(pa.array([1, 2]))).all()
    with pytest.raises(UserError, match="int64"):
        space.lookup(pa.array(["one"]))


@given(INTS)
def test_hashes_of_integers_never_collide(ids: list[int]) -> None:
    assert len(np.unique(hash_ids(pa.array(ids, pa.int64())))) == len(ids)


@given(st.lists(st.text(max_size=12), max_size=30), st.integers(0, 5))
def test_a_hash_depends_on_the_text_alone(texts: list[str], start: int) -> None:
    whole = hash_ids(pa.array(texts, pa.string()))
    assert (hash_ids(pa.array(texts, pa.string()).slice(start)) == whole[start:]).all()
    assert (hash_ids(pa.array(texts, pa.large_string())) == whole).all()
    assert len(np.unique(whole)) == len(set(texts))
