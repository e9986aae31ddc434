from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from serve.retry import FIRST_S, MOST_S, Retry


def test_nothing_is_due_that_has_not_failed() -> None:
    retry = Retry(lambda: 1e9)
    assert not retry.is_due
    retry.note(settled=True)
    assert not retry.is_due


@given(st.lists(st.booleans(), max_size=20))
def test_a_pause_doubles_with_each_failure_in_a_row_to_a_bound(tries: Sequence[bool]) -> None:
    now_s = 0.0
    retry = Retry(lambda: now_s)
    failed = 0
    for settled in tries:
        retry.note(settled)
        failed = 0 if settled else failed + 1
        pause_s = min(FIRST_S * 2 ** (failed - 1), MOST_S)
        for later_s, due in ((pause_s - 1e-3, False), (pause_s, failed > 0)):
            began, now_s = now_s, now_s + later_s
            assert retry.is_due is due
            now_s = began
