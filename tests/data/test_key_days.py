import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.key_days import DayMarks, KeyDays
from data.touches import LAST_DAY, Touches

KEYS = 5
SOME_DAYS = [0, 1, 2, 62, 63, 64, 65, 127, 128, 900, LAST_DAY - 1, LAST_DAY]
seen = st.lists(st.tuples(st.integers(0, KEYS - 1), st.sampled_from(SOME_DAYS)), max_size=30)


def key_days_of(blocks) -> KeyDays:
    marks = DayMarks.empty(KEYS)
    for block in blocks:
        keys, days = np.array(block, np.int64).reshape(-1, 2).T
        none = np.zeros(len(keys), np.int32)
        marks.add(Touches(none, none, none.astype(np.uint8), days.astype(np.int16)), keys)
    return KeyDays.of(marks)


@given(st.lists(seen, max_size=4))
def test_lines_are_numbered_by_key_then_day_whatever_the_blocks(blocks):
    found, lines = key_days_of(blocks), sorted({line for block in blocks for line in block})
    assert len(found) == len(lines)
    keys, days = np.array(lines, np.int64).reshape(-1, 2).T
    assert found.before(keys, days).tolist() == [*range(len(lines))]
    firsts = np.searchsorted(keys, np.arange(KEYS + 1))
    assert found.firsts.tolist() == firsts.tolist()


@given(st.lists(seen, max_size=4), st.integers(0, KEYS - 1), st.sampled_from(SOME_DAYS))
def test_of_a_day_without_a_line_those_before_it_are_counted(blocks, key, day):
    found, lines = key_days_of(blocks), {line for block in blocks for line in block}
    for moment in (day, day + 1):
        expected = sum(line < (key, moment) for line in lines)
        assert found.before(np.array([key]), np.array([moment])).tolist() == [expected]


def test_a_day_far_away_takes_the_words_of_its_own_run_alone():
    assert key_days_of([[(1, 3), (1, LAST_DAY)]]).words.shape == (KEYS, 3)
