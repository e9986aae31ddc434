import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.schema import DAY_MS, Calendar
from data.contract.settings import UserError, build
from data.windows import WindowSettings, day_bounds, resolve

DEFAULT = WindowSettings()


def calendar(base: int, days: int | None = None) -> Calendar:
    return Calendar(first_day_ms=0, num_days=days or base, base_days=base)


def test_a_log_of_180_days_has_the_windows_as_written() -> None:
    found = resolve(DEFAULT, calendar(180))
    assert {name: getattr(found, name) for name in DEFAULT.pairs()} == DEFAULT.pairs()
    assert found.ranker_closed == 150


def test_added_days_move_every_window_but_keep_the_first_day() -> None:
    found = resolve(DEFAULT, calendar(180, 183))
    assert found.test == (170, 183)
    assert found.valid == (156, 169)
    assert found.two_tower == (122, 155)
    assert found.train == (1, 155)
    assert found.ranker_closed == 153


@given(st.integers(6, 2000), st.integers(0, 50))
def test_windows_of_any_log_are_ordered_and_end_with_it(base: int, added: int) -> None:
    found = resolve(DEFAULT, calendar(base, base + added))
    for name in DEFAULT.pairs():
        first, last = getattr(found, name)
        assert 1 <= first <= last <= base + added, name
    assert found.test[1] == base + added
    assert found.train[1] + 1 == found.valid[0]
    assert found.valid[1] + 1 == found.test[0]
    assert found.two_tower[1] == found.train[1] == found.calibration[1]
    assert found.ranker[1] < found.calibration[0]


@given(st.integers(180, 2000))
def test_windows_scale_with_the_length_of_the_log(base: int) -> None:
    found = resolve(DEFAULT, calendar(base))
    for name, (first, last) in DEFAULT.pairs().items():
        scaled_first, scaled_last = getattr(found, name)
        assert abs((scaled_first - 1) * 180 / base - (first - 1)) <= 1
        assert abs(scaled_last * 180 / base - last) <= 1


def test_too_short_a_log_is_a_user_error_with_a_way_out() -> None:
    with pytest.raises(UserError, match="leave_one_out"):
        resolve(DEFAULT, calendar(5))


def test_a_log_without_a_clock_has_no_windows() -> None:
    with pytest.raises(UserError, match="clock"):
        resolve(DEFAULT, None)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(UserError, match=r"windows\.test"):
        build(WindowSettings, {"test": [180, 170]})
    with pytest.raises(UserError):
        build(WindowSettings, {"test": [170, 181]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ranker": [119, 153]}, "windows.ranker ends on day 153, but windows.valid"),
        ({"ranker_closed": 153}, "windows.ranker_closed ends on day 153, but windows.valid"),
        ({"graph": [1, 160]}, "windows.graph ends on day 160, but windows.valid"),
        ({"valid": [153, 167]}, "windows.valid ends on day 167, but windows.test begins"),
        ({"valid": [175, 180], "test": [160, 174]}, "windows.valid ends on day 180"),
    ],
)
def test_days_that_are_chosen_or_reported_on_teach_nothing(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        build(WindowSettings, given)
    build(WindowSettings, {"ranker": [119, 152], "ranker_closed": 152, "valid": [153, 166]})


def test_bounds_of_a_window_are_its_first_and_one_past_its_last_millisecond() -> None:
    days = Calendar(first_day_ms=5 * DAY_MS, num_days=9, base_days=9)
    assert day_bounds(days, (2, 3)) == (6 * DAY_MS, 8 * DAY_MS)
