import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from ray_jobs.settings import Settings
from ray_jobs.tuning.capacity import DATA, Need, concurrency
from ray_jobs.tuning.space import with_choice

TWO_WORKERS = Need.of(with_choice(Settings(), {"train.num_workers": 2}))
ONE_CORE = Need.of(Settings())


def test_four_cpus_hold_one_trial_of_two_workers_and_the_tasks_that_read():
    assert concurrency(TWO_WORKERS, 4, None, None) == 1


def test_a_laptop_runs_as_many_trials_as_it_has_cores():
    assert concurrency(ONE_CORE, 4, 2, None) == 2


def test_a_cluster_runs_as_many_as_fit():
    assert concurrency(ONE_CORE, 64, None, None) == 63
    assert concurrency(TWO_WORKERS, 64, None, None) == 30


@pytest.mark.parametrize(
    ("need", "cpus", "asked", "text"),
    [
        (Need(0.1, 8), 4, None, r"8.1 CPUs \(0.1 of its own \+ 8 workers\).*has 4 CPUs.*= 0"),
        (TWO_WORKERS, 4, 2, "concurrency=2 cannot be placed.*set concurrency=1"),
        (Need(4.0, 0), 4, None, "lower train.num_workers or tune.cores"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_the_sum(need, cpus, asked, text):
    with pytest.raises(UserError, match=text):
        concurrency(need, cpus, None, asked)


@given(st.integers(0, 8), st.integers(1, 4), st.integers(2, 200))
def test_trials_never_take_more_than_there_is(workers, cores, cpus):
    need = Need(0.1 if workers else float(cores), workers)
    try:
        found = concurrency(need, cpus, None, None)
    except UserError:
        assert need.cpus > cpus - DATA
    else:
        assert found >= 1
        assert found * need.cpus <= cpus - DATA + 1e-6
