from hypothesis import given
from hypothesis import strategies as st

from serve.recent import MEAN_SIZE, Recent

PUT = st.lists(st.tuples(st.integers(0, 5), st.integers(0, MEAN_SIZE * 2)), max_size=40)


@given(PUT, st.integers(1, 4))
def test_the_values_put_last_are_kept_up_to_both_bounds(
    puts: list[tuple[int, int]], users: int
) -> None:
    """As of a plain list, newest last, from which the oldest go until both hold."""
    memory, plain = Recent[list[int]](users, len), list[tuple[int, list[int]]]()
    for user, size in puts:
        value = [0] * size
        memory.put(user, value)
        plain = [*((one, its) for one, its in plain if one != user), (user, value)]
        while len(plain) > users or sum(len(v) for _, v in plain) > MEAN_SIZE * users:
            del plain[0]
        assert [memory.get(one) for one in range(6)] == [dict(plain).get(i) for i in range(6)]
