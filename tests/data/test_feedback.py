"""What followed on what was shown."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data.feedback import Attribution, preceding

moments = st.tuples(st.integers(0, 2), st.integers(0, 20))


@given(st.lists(moments, max_size=8), st.lists(moments, max_size=8), st.integers(0, 12))
def test_a_moment_belongs_to_the_newest_row_of_its_key_that_is_near_enough(rows, asked, within):
    keys, times, of, at = (
        np.array([pair[i] for pair in pairs], np.int64) for pairs in (rows, asked) for i in (0, 1)
    )
    found = preceding(keys, times, of, at, within)
    for key, moment, row in zip(of, at, found, strict=True):
        near = [t for k, t in rows if k == key and moment - within <= t <= moment]
        if near:
            assert (keys[row], times[row]) == (key, max(near))
        else:
            assert row == -1


def shown(*rows):
    names = ("request_id", "user_id", "item_id", "timestamp")
    return pa.table({n: [row[i] for row in rows] for i, n in enumerate(names)})


def events(*rows):
    names = ("request_id", "user_id", "item_id", "timestamp", "action")
    return pa.table({n: pa.array([row[i] for row in rows]) for i, n in enumerate(names)})


def labelled(done, *blocks):
    """Shown items of all blocks with their labels."""
    attribution = Attribution(done, 100)
    for number, block in enumerate(blocks):
        attribution.see(number, block)
    tables = [attribution.labelled(n, block, ("save", "hide")) for n, block in enumerate(blocks)]
    return pa.concat_tables(tables)


def saved(block, done):
    return labelled(done, block)["label.save"].to_pylist()


def test_an_event_labels_the_request_that_it_names_and_else_the_last_that_showed_its_item():
    twice = shown((7, 1, 5, 0), (8, 1, 5, 10), (9, 2, 5, 20))
    assert saved(twice, events((7, 1, 5, 30, "save"))) == [True, False, False]
    assert saved(twice, events((None, 1, 5, 30, "save"))) == [False, True, False]
    assert saved(twice, events((99, 1, 5, 30, "save"))) == [False, True, False]
    assert saved(twice, events((None, 3, 5, 30, "save"))) == [False, False, False]


def test_what_comes_too_late_or_before_labels_nothing():
    once = shown((7, 1, 5, 50))
    for time, label in ((49, False), (50, True), (150, True), (151, False)):
        assert saved(once, events((7, 1, 5, time, "save"))) == [label]


def test_ids_written_as_text_or_numbers_are_the_same_and_other_actions_say_nothing():
    once = shown((7, "1", "5", 50))
    done = events(("7", 1, 5, 60, "save"), ("7", 1, 5, 60, "open"))
    table = labelled(done, once)
    assert table["label.save"].to_pylist() == [True]
    assert table["label.hide"].to_pylist() == [False]
    assert table["labels_closed_at"].to_pylist() == [150]
    assert table.column_names[:4] == once.column_names


def test_without_events_nothing_was_done():
    none = events((7, 1, 5, 60, "save"))[:0]
    assert saved(shown((7, 1, 5, 50)), none) == [False]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(0, 250)), max_size=8),
    st.lists(
        st.tuples(st.one_of(st.none(), st.integers(1, 5)), st.integers(1, 2), st.integers(0, 300)),
        max_size=6,
    ),
    st.integers(0, 250),
)
def test_labels_are_the_same_however_the_log_is_cut(rows, done, cut):
    feeds = sorted({(time, request, item) for request, item, time in rows})
    table = shown(*((request, 1, item, time) for time, request, item in feeds))
    if not feeds:
        return
    clicks = events(*((request, 1, item, time, "save") for request, item, time in done))
    clicks = clicks.set_column(0, "request_id", clicks["request_id"].cast(pa.int64()))
    if not done:
        clicks = events((1, 1, 1, 0, "save"))[:0]
    times = table["timestamp"].to_numpy()
    parts = [table.filter(pa.array(mask)) for mask in (times < cut, times >= cut)]
    whole = labelled(clicks, table)
    assert labelled(clicks, *(part for part in parts if part.num_rows)).equals(whole)
