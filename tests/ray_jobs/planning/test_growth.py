import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from ray_jobs.engine.memory import REST
from ray_jobs.planning.growth import Growth, Line
from ray_jobs.planning.measured import Measured, Sizes

POINTS = st.lists(
    st.tuples(st.integers(1, 10**9), st.floats(0, 1e6)),
    min_size=2,
    max_size=5,
    unique_by=lambda p: p[0],
)


def run_of(users: int, base: float = 100.0) -> Measured:
    sizes = Sizes(users=users, items=2 * users, events=50 * users)
    return Measured(
        sizes=sizes,
        cores=2,
        seconds={"dataset": 1 + users / 1000, "of another release": 1.0},
        phases_mib={"dataset": {REST: 400.0}, "two_tower": {REST: base + 0.01 * users}},
        bytes={"data set": 900 * users, "user ids": 16 * users},
    )


@given(st.floats(0, 1e4), st.floats(1e-3, 1e3), st.integers(1, 10**6), st.integers(2, 50))
def test_a_line_goes_through_two_points(base: float, slope: float, size: int, times: int) -> None:
    line = Line(base, slope)
    found = Line.through([(size, line.at(size)), (size * times, line.at(size * times))])
    assert found.at(8 * size) == pytest.approx(line.at(8 * size), rel=1e-5)


@given(POINTS)
def test_nothing_is_predicted_to_shrink_or_to_be_below_zero(
    points: list[tuple[int, float]],
) -> None:
    line = Line.through(points)
    assert line.base >= 0
    assert line.slope >= 0


def test_what_shrinks_is_taken_for_constant() -> None:
    assert Line.through([(10, 500.0), (20, 400.0)]).at(1000) == 500


def test_each_kind_grows_with_what_it_reads() -> None:
    growth = Growth.of([run_of(1000), run_of(2000)])
    needs = growth.at(Sizes(users=8000, items=16_000, events=400_000))
    assert needs.seconds == {"dataset": pytest.approx(9)}
    assert needs.peak_mib == {"dataset": pytest.approx(400), "two_tower": pytest.approx(180)}
    assert needs.bytes["data set"] == pytest.approx(7_200_000)
    more_items = growth.at(Sizes(users=8000, items=400_000, events=400_000))
    assert more_items.bytes == needs.bytes
    assert more_items.peak_mib["two_tower"] > needs.peak_mib["two_tower"]


def of_phases(users: int, **phases: float) -> Measured:
    return dataclasses.replace(run_of(users), phases_mib={"ranker": phases})


def test_a_phase_that_is_hidden_on_small_logs_counts_on_large_ones() -> None:
    small, large = (
        of_phases(users, steps=2000.0, reading=600 + 0.1 * users) for users in (1000, 2000)
    )
    growth = Growth.of([small, large])
    needs = growth.at(Sizes(users=40_000, items=80_000, events=50 * 40_000))
    assert needs.peak_mib == {"ranker": pytest.approx(4600)}
    more_users = growth.at(Sizes(users=10**6, items=80_000, events=50 * 40_000))
    assert more_users.peak_mib == needs.peak_mib, "histories are read of events"


def test_runs_of_other_phases_are_told_by_their_highest() -> None:
    older, newer = of_phases(1000, **{REST: 700.0}), of_phases(2000, steps=800.0, reading=100.0)
    needs = Growth.of([older, newer]).at(run_of(4000).sizes)
    assert needs.peak_mib == {"ranker": pytest.approx(1000)}


def of_graph(items: int, batch_items: int | None) -> Measured:
    """Reading takes 0.1 MiB an item, steps 1,000 and a hundredth of one of a batch."""
    sizes = Sizes(users=items, items=items, events=items, batch_items=batch_items)
    phases = {"reading": 0.1 * items, REST: 1000 + 0.01 * sizes.in_batch}
    return dataclasses.replace(run_of(items), sizes=sizes, phases_mib={"graph": phases})


def test_steps_of_the_graph_encoder_grow_with_the_items_of_a_batch_and_no_further() -> None:
    growth = Growth.of([of_graph(1000, 2000), of_graph(2500, 2000)])
    asked = Sizes(users=1, items=10_000, events=10)
    assert growth.at(asked).peak_mib == {
        "graph": pytest.approx(1000 + 0.01 * of_graph(10_000, 2000).sizes.in_batch)
    }
    assert growth.at(dataclasses.replace(asked, items=10**9)).peak_mib["graph"] < 1000 + 0.01 * 2001
    assert growth.at(dataclasses.replace(asked, events=10**6)).peak_mib["graph"] == 0.1 * 10**6


@pytest.mark.parametrize("others", [None, 9000])
def test_steps_that_read_rows_of_all_or_not_alike_grow_with_all_items(others: int | None) -> None:
    growth = Growth.of([of_graph(1000, None), of_graph(2500, others)])
    assert growth.at(Sizes(users=1, items=10**6, events=10)).peak_mib["graph"] > 5000


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_batch_has_no_more_items_than_it_names_nor_than_there_are(items: int, named: int) -> None:
    sizes = Sizes(users=1, items=items, events=1, batch_items=named)
    assert min(items, named) / 2 < sizes.in_batch <= min(items, named) * (1 + 1e-9)


def test_what_not_all_runs_tell_is_missing() -> None:
    more = dataclasses.replace(run_of(2000), bytes={"data set": 10, "user ids": 1, "graph": 5})
    missing = Growth.of([run_of(1000), more]).not_measured
    assert "graph" in missing["gib"]
    assert "data set" not in missing["gib"]
    assert {"evaluation", "ranker"} <= set(missing["hours"])


def test_runs_that_tell_of_nothing_alike_draw_no_line() -> None:
    silent = dataclasses.replace(run_of(2000), phases_mib={})
    with pytest.raises(UserError, match="no kind of artefact"):
        Growth.of([run_of(1000), silent])


def test_one_size_is_not_enough() -> None:
    with pytest.raises(UserError, match="two sizes"):
        Growth.of([run_of(1000), run_of(1000)])
