"""Searches under conditions find what a look at every item finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import partitions as module
from serve.partitions import Partitions, build_partitions

ROWS, DIM, FIRST = 6000, 16, 3
SHARES = {11: 0.5, -5: 0.1, 70: 0.01, 9: 0.001}
NOBODY = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def carried() -> dict[int, Any]:
    """Rows that carry each condition."""
    rng = np.random.default_rng(3)
    live = np.arange(FIRST, ROWS)
    return {key: live[rng.random(len(live)) < share] for key, share in SHARES.items()}


@pytest.fixture(scope="module")
def vectors() -> Any:
    """In clumps, as trained vectors are."""
    rng = np.random.default_rng(4)
    clumps = rng.normal(size=(40, DIM))
    made = clumps[rng.integers(0, 40, ROWS)] + 0.5 * rng.normal(size=(ROWS, DIM))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    made[:FIRST] = 0
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def priors() -> Any:
    return np.random.default_rng(5).random(ROWS).astype(np.float32) * 0.2


@pytest.fixture(scope="module", params=["scanned", "inverted"])
def built(request: Any, carried: dict[int, Any], vectors: Any, priors: Any) -> Partitions:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "inverted":
            patch.setattr(module, "SCAN", 300)
            patch.setattr(module, "PER_LIST", 50)
        conditions = np.repeat(list(carried), [len(rows) for rows in carried.values()])
        owners = np.concatenate(list(carried.values()))
        return build_partitions(owners, conditions, vectors, priors, 0.99)


def exact(vectors: Any, priors: Any, rows: Any, query: Any, k: int, prior: float) -> Any:
    scores = vectors[rows] @ query + np.float32(prior) * priors[rows]
    return rows[np.argsort(-scores, kind="stable")[:k]]


@pytest.mark.parametrize("prior", [0.0, 1.0])
@pytest.mark.parametrize("condition", SHARES)
def test_the_best_of_a_condition_are_found(
    built: Partitions,
    carried: dict[int, Any],
    vectors: Any,
    priors: Any,
    condition: int,
    prior: float,
) -> None:
    k, shares = 20, []
    for query in vectors[FIRST :: ROWS // 50]:
        rows, scores = built.search([condition], query, k, NOBODY, prior)
        wanted = exact(vectors, priors, carried[condition], query, k, prior)
        assert len(rows) == len(wanted) == len(set(rows.tolist()))
        assert np.isin(rows, carried[condition]).all()
        assert scores == pytest.approx(vectors[rows] @ query + prior * priors[rows], abs=1e-6)
        assert (np.diff(scores) <= 0).all()
        shares.append(np.isin(wanted, rows).mean())
    assert np.mean(shares) >= 0.98


def test_all_of_several_conditions_hold(
    built: Partitions, carried: dict[int, Any], vectors: Any, priors: Any
) -> None:
    both = np.intersect1d(carried[11], carried[-5])
    shares = []
    for query in vectors[FIRST :: ROWS // 30]:
        rows, _ = built.search([-5, 11, 11], query, 20, NOBODY)
        assert np.isin(rows, both).all()
        shares.append(np.isin(exact(vectors, priors, both, query, 20, 0.0), rows).mean())
    assert np.mean(shares) >= 0.97


def test_what_is_excluded_takes_no_place(built: Partitions, vectors: Any) -> None:
    query = vectors[100]
    first, _ = built.search([-5], query, 30, NOBODY)
    exclude = np.sort(first)
    second, _ = built.search([-5], query, 30, exclude)
    assert len(second) == 30
    assert not np.isin(second, exclude).any()


def test_asking_for_more_than_there_is_gives_all(
    built: Partitions, carried: dict[int, Any], vectors: Any
) -> None:
    rows, _ = built.search([9], vectors[7], 500, NOBODY)
    assert sorted(rows.tolist()) == carried[9].tolist()
    half = np.sort(carried[9][::2])
    rest, _ = built.search([9], vectors[7], 500, half)
    assert sorted(rest.tolist()) == sorted(set(carried[9].tolist()) - set(half.tolist()))


def test_an_unknown_condition_finds_nothing(built: Partitions, vectors: Any) -> None:
    assert len(built.search([12345], vectors[7], 5, NOBODY)[0]) == 0
    assert len(built.search([11, 12345], vectors[7], 5, NOBODY)[0]) == 0


def test_files_hold_the_same(built: Partitions, vectors: Any, priors: Any, tmp_path: Path) -> None:
    assert Partitions.open(tmp_path, vectors, priors) is None
    built.save(tmp_path)
    again = Partitions.open(tmp_path, vectors, priors)
    assert again is not None
    for query in vectors[FIRST:50]:
        before, after = (one.search([11], query, 10, NOBODY, 1.0) for one in (built, again))
        assert before[0].tolist() == after[0].tolist()
