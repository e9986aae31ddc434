import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.contract.settings import UserError
from ray_jobs.settings import Settings
from ray_jobs.tuning.capacity import DATA, Need, Room, concurrency, on_devices_of_a_kind
from ray_jobs.tuning.space import with_choice


def need_of(gpus=0, **choice):
    return Need.of(with_choice(Settings(), choice), gpus)


TWO_WORKERS = need_of(**{"train.num_workers": 2})
ONE_CORE = need_of()
ONE_GPU = need_of(1)
WORKERS_ON_GPUS = need_of(2, **{"train.num_workers": 2})


def test_four_cpus_hold_one_trial_of_two_workers_and_the_tasks_that_read():
    assert concurrency(TWO_WORKERS, Room(4), None) == 1


def test_a_laptop_runs_as_many_trials_as_it_has_cores():
    assert concurrency(ONE_CORE, Room(4, cores=2), None) == 2


def test_a_cluster_runs_as_many_as_fit():
    assert concurrency(ONE_CORE, Room(64), None) == 63
    assert concurrency(TWO_WORKERS, Room(64), None) == 30


def test_a_trial_alone_takes_a_gpu_and_workers_one_each_where_there_are_as_many():
    assert (ONE_GPU.gpus, ONE_GPU.own_gpus) == (1, 1)
    assert (WORKERS_ON_GPUS.gpus, WORKERS_ON_GPUS.own_gpus) == (1, 0)
    assert need_of(1, **{"train.num_workers": 2}).gpus == 0
    assert need_of(8, **{"train.device": "cpu"}).gpus == 0
    assert need_of(8, **{"tune.gpu_share": 0.25}).own_gpus == 0.25


@pytest.mark.parametrize(
    ("need", "gpus", "found"),
    [
        (ONE_GPU, 1, 1),
        (ONE_GPU, 8, 8),
        (ONE_GPU, 80, 63),
        (WORKERS_ON_GPUS, 5, 2),
        (Need(1.0, 0, 0.4), 3, 6),  # a share does not lie on two
        (Need(1.0, 0, 0.1), 1, 10),
        (ONE_CORE, 1, 63),
    ],
)
def test_no_more_trials_run_than_have_their_gpus(need, gpus, found):
    assert concurrency(need, Room(64, gpus), None) == found


@pytest.mark.parametrize(
    ("need", "room", "asked", "text"),
    [
        (Need(0.1, 8), Room(4), None, r"8.1 CPUs \(0.1 of its own \+ 8 workers\).*has 4 CPUs.*= 0"),
        (TWO_WORKERS, Room(4), 2, "concurrency=2 cannot be placed.*set concurrency=1"),
        (Need(4.0, 0), Room(4), None, "lower train.num_workers or tune.cores"),
        (
            *(ONE_GPU, Room(64, 2), 3),
            r"takes 1 of its own and 1 GPU,.*= 63, and 2 GPUs, 1 trials on each: 2 at once",
        ),
        (WORKERS_ON_GPUS, Room(64, 2), 2, "2 workers.* and 2 GPUs,.*2 a trial: 1 at once"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_the_sum(need, room, asked, text):
    with pytest.raises(UserError, match=text):
        concurrency(need, room, asked)


@given(
    st.integers(0, 8),
    st.integers(1, 4),
    st.integers(2, 200),
    st.integers(0, 16),
    st.floats(0.01, 1),
)
def test_trials_never_take_more_than_there_is(workers, cores, cpus, gpus, share):
    names = {"train.num_workers": workers, "tune.cores": cores, "tune.gpu_share": share}
    need = need_of(gpus, **names)
    try:
        found = concurrency(need, Room(cpus, gpus), None)
    except UserError:
        assert need.cpus > cpus - DATA
    else:
        assert found >= 1
        assert found * need.cpus <= cpus - DATA + 1e-6
        assert found * need.gpus * max(1, workers) <= gpus + 1e-6


@pytest.mark.parametrize(
    ("workers", "gpus", "device"),
    [(2, 1, "cpu"), (2, 2, "auto"), (2, 0, "auto"), (0, 1, "auto"), (0, 0, "auto")],
)
def test_workers_without_a_gpu_each_compute_on_cores_in_all_trials(capsys, workers, gpus, device):
    settings = with_choice(Settings(), {"train.num_workers": workers})
    assert on_devices_of_a_kind(settings, gpus).train.device == device
    told = "all trials compute on cores" in " ".join(capsys.readouterr().err.split())
    assert told == (device == "cpu")


def test_gpus_that_are_asked_for_have_to_be_there_before_a_sweep():
    asked = with_choice(Settings(), {"train.device": "gpu", "train.num_workers": 2})
    with pytest.raises(UserError, match=r"has 1 GPUs, where a trial takes 2: start them before"):
        on_devices_of_a_kind(asked, 1)
    assert on_devices_of_a_kind(asked, 2) == asked
    assert Need.of(asked, 2) == WORKERS_ON_GPUS
