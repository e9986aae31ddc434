"""Rows of small logs, (user, item, action, day, part), as the fixture `log_of` takes them."""

from hypothesis import strategies as st

from data.contract.schema import DAY_MS

SAVE, HIDE = 1, 2
NUM_ITEMS, NUM_USERS = 12, 9
START = 1_700_000_000_000 // DAY_MS * DAY_MS

rows_of_a_log = st.lists(
    st.tuples(
        st.integers(1, NUM_USERS),
        st.integers(1, NUM_ITEMS),
        st.sampled_from([SAVE, HIDE]),
        st.integers(1, 180),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=60,
)
