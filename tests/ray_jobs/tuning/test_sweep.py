import pytest
import ray
from ray.tune.search import Searcher
from ray.util import placement_group_table

from data.contract.settings import UserError
from data.contract.storage import StorageError
from ray_jobs.engine.devices import keep_to_gpu, of_driver
from ray_jobs.engine.job import start
from ray_jobs.engine.loop import TrainSettings
from ray_jobs.tune import TuneArguments, main
from ray_jobs.tuning import sweep as module
from ray_jobs.tuning.grid import Grid
from ray_jobs.tuning.sweep import Feeder, Stage, Sweep, Watch
from ray_jobs.tuning.trial import Plan, Trial


def grid(name, count, first=0):
    plans = [Plan(choice={"two_tower.dim": first + n}, seed=0, number=n) for n in range(count)]
    return Grid(name, plans)


def done(plan):
    return Trial(choice=plan.choice, seed=plan.seed)


@pytest.fixture
def shown():
    return []


@pytest.fixture
def sweep_of(world_words, monkeypatch, shown):
    """Sweeps of stages, of which the trials of some widths are recorded."""

    def sweep_of(*stages, known=()):
        def recorded(job, plan):
            return done(plan) if plan.choice["two_tower.dim"] in known else None

        monkeypatch.setattr(module, "recorded", recorded)
        seen = [lambda search, plan, trial: shown.append((search, plan.number, trial.state))]
        return Sweep(start(world_words), stages, seen)

    return sweep_of


def test_a_stage_that_waits_begins_when_all_results_are_there(sweep_of):
    sweep = sweep_of(
        Stage(lambda: grid("first", 2)),
        Stage(lambda: grid("second", 1, first=10)),
        Stage(lambda: grid("last", 1, first=20), waits=True),
    )
    handed = [sweep.next() for _ in range(3)]
    assert [search.name for search, _ in handed] == ["first", "first", "second"]
    assert sweep.next() is None
    assert not sweep.finished
    for search, plan in handed:
        sweep.tell(search, plan, done(plan))
    search, plan = sweep.next()
    assert search.name == "last"
    sweep.tell(search, plan, done(plan))
    assert sweep.finished


def test_what_is_recorded_is_told_and_not_handed_out(sweep_of, shown):
    sweep = sweep_of(Stage(lambda: grid("first", 3)), known=(0, 2))
    search, plan = sweep.next()
    assert plan.number == 1
    sweep.tell(search, plan, done(plan))
    assert sweep.next() is None
    assert sweep.finished
    assert [number for _, number, _ in shown] == [0, 1, 2]


def test_a_stage_may_turn_out_to_have_nothing(sweep_of):
    sweep = sweep_of(Stage(lambda: None), Stage(lambda: grid("next", 1)))
    assert sweep.next()[0].name == "next"


def test_no_more_trials_fly_than_have_room(sweep_of):
    feeder = Feeder(sweep_of(Stage(lambda: grid("g", 3))), concurrency=2)
    configs = [feeder.suggest(name) for name in "ab"]
    assert [Plan.from_json(config["plan"]).number for config in configs] == [0, 1]
    assert feeder.suggest("c") is None
    feeder.on_trial_complete("a", {"state": "complete"})
    assert feeder.suggest("c") is not None
    for name in "bc":
        feeder.on_trial_complete(name, {})
    assert feeder.suggest("d") == Searcher.FINISHED


def test_a_trial_that_died_or_left_nothing_has_failed(sweep_of):
    search = grid("g", 3)
    feeder = Feeder(sweep_of(Stage(lambda: search)), concurrency=3)
    for name in "abc":
        feeder.suggest(name)
    feeder.on_trial_complete("a", None, error=True)
    feeder.on_trial_complete("b", {"state": "failed", "error": "RuntimeError: out of luck"})
    feeder.on_trial_complete("c", {})
    errors = [trial.error for trial in search.results]
    assert "tune.max_failures" in errors[0]
    assert errors[1:] == ["RuntimeError: out of luck", "it left no record"]


def test_a_sweep_in_which_nothing_moves_is_given_up(sweep_of, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    feeder = Feeder(sweep_of(Stage(lambda: grid("g", 1))), concurrency=1)
    curve = feeder.sweep.job.root / "checkpoints" / "two_tower-v" / "choose" / "curve.jsonl"
    watch = Watch(feeder, limit_s=60)
    now[0] = 59.0
    assert not watch.stop_all()
    curve.parent.mkdir(parents=True)
    curve.write_text("{}\n")
    now[0] = 100.0
    assert not watch.stop_all(), "a step has been taken"
    now[0] = 161.0
    assert watch.stop_all()


def test_a_storage_that_is_away_ends_no_sweep_before_its_time(sweep_of, monkeypatch):
    def away(*_):
        raise StorageError("away")

    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.storage, "changes", away)
    watch = Watch(Feeder(sweep_of(Stage(lambda: grid("g", 1))), concurrency=1), limit_s=60)
    now[0] = 59.0
    assert not watch.stop_all()
    now[0] = 100.0
    assert watch.stop_all()


def placed():
    return [g for g in placement_group_table().values() if g["state"] != "REMOVED"]


@pytest.mark.usefixtures("ray_cluster")
def test_trials_of_two_workers_run_on_four_cpus_and_leave_nothing_behind(shared_root):
    words = shared_root("swept", "two_tower.graph_vectors=false", "train.max_steps=2")
    space = ["search=nsga2", "trials=2", "space.two_tower.id_dropout=[0,0.7]"]
    goals = ["objectives=[recall@10,latency_ms,megabytes]", "train.num_workers=2"]
    summary = main(start([*words, *space, *goals], TuneArguments))
    assert (summary["trials"], summary["failed"]) == (2, 0)
    assert set(summary["best"]["validation"]) == {"recall@10", "latency_ms", "megabytes"}
    assert all(value > 0 for value in summary["best"]["validation"].values())
    assert placed() == []
    assert ray.available_resources()["CPU"] == 4


@pytest.mark.usefixtures("ray_cluster")
def test_what_has_no_room_is_refused_before_anything_starts(shared_root):
    words = shared_root("full", "train.num_workers=9", "search=tpe")
    with pytest.raises(UserError, match=r"9.1 CPUs .* the cluster has 4 CPUs.*= 0 at once"):
        main(start(words, TuneArguments))


@pytest.mark.gpu
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_trials_share_a_gpu_and_all_end_on_it(shared_root, share):
    words = shared_root("gpu", "two_tower.graph_vectors=false", "train.max_steps=2")
    space = ["search=random", "trials=3", "space.two_tower.id_dropout=[0,0.7]"]
    before = ray.available_resources()["GPU"]
    summary = main(start([*words, *space, f"tune.gpu_share={share}"], TuneArguments))
    assert (summary["trials"], summary["failed"]) == (3, 0)
    assert ray.available_resources()["GPU"] == before


@pytest.mark.gpu
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("given", "found"), [(1.0, "cuda"), (0.5, "cuda"), (0.0, "cpu")])
def test_a_trial_computes_on_the_gpu_that_it_was_given_alone(given, found):
    @ray.remote(num_gpus=given)
    class Trial:
        def device(self):
            keep_to_gpu(given)
            return of_driver(TrainSettings()).type

    assert ray.get(Trial.remote().device.remote()) == found
