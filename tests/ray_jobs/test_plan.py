import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.contract.artifact import point, publish, read
from data.contract.mirrors import PLACE
from data.contract.settings import UserError, build, load
from ray_jobs import plan
from ray_jobs.plan import PlanSettings, compared, main, runs_of
from ray_jobs.planning.growth import Growth
from ray_jobs.planning.measured import Measured, Sizes
from serve.settings import ServeSettings

COUNTS = ("users", "items", "events")


def run_of(users: int, mib: float) -> Measured:
    return Measured(
        sizes=Sizes(users=users, items=users, events=100 * users),
        cores=2,
        seconds={"dataset": users / 100},
        phases_mib={"dataset": {"": mib}, "two_tower": {"": mib / 2}},
        bytes={"data set": 900 * users},
    )


def test_a_plan_has_a_column_for_each_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["users=[10000,1000000]", "items=[500,2000]", "events_per_user=30"]) == 0
    out, err = capsys.readouterr()
    logs = json.loads(out.splitlines()[-1])["logs"]
    assert [log["items"] for log in logs] == [500, 2000]
    assert [log["events"] for log in logs] == [300_000, 30_000_000]
    assert logs[0]["cost"] <= logs[1]["cost"]
    assert "1,000,000 users" in err


def test_what_fits_no_host_is_said_in_the_table_and_as_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [asdict(run_of(users, users / 100)) for users in (100_000, 200_000)]
    (tmp_path / "measured.json").write_text(json.dumps(runs))
    monkeypatch.setattr(plan, "OURS", tmp_path / "measured.json")
    assert main(["users=[10000,1000000000]"]) == 0
    out, err = capsys.readouterr()
    small, large = json.loads(out.splitlines()[-1])["logs"]
    assert (small["fits"], small["why"]) == (True, [])
    assert (large["fits"], large["cost"]) == (False, None)
    assert large["on_one_host"] == {"dataset": True, "two_tower": True}
    assert "1,000,000,000 users: making two_tower does not fit one host of 128 GiB" in err
    assert "1,000,000,000 users: the one Redis server does not fit one host of 128 GiB" in err
    assert "local, serve.store_gib=1" in err
    assert main(["users=[1000000000]", "host.gib=200000"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["logs"][0]["fits"]


def test_the_least_store_is_one_that_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["users=[1]", "events_per_user=.001"]) == 0
    size = re.search(r"serve\.store_gib=(\d+)", capsys.readouterr().err)
    assert size is not None
    assert build(ServeSettings, {"store_gib": int(size[1])})


def test_what_comes_with_homefeed_was_measured_at_two_sizes() -> None:
    runs = runs_of(load(PlanSettings, []))
    assert len({run.sizes.events for run in runs}) >= 2
    assert all(run.peak_mib and run.seconds and run.bytes for run in runs)
    assert len(Growth.of(runs).peak_mib.through) >= 7


def test_what_not_all_runs_have_measured_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = run_of(100_000, 600.0), run_of(200_000, 700.0)
    judged = replace(large, seconds=large.seconds | {"evaluation": 50.0, "graph": 3.0})
    (tmp_path / "measured.json").write_text(json.dumps([asdict(small), asdict(judged)]))
    monkeypatch.setattr(plan, "OURS", tmp_path / "measured.json")
    assert main(["users=[1000000]"]) == 0
    out, err = capsys.readouterr()
    missing = json.loads(out.splitlines()[-1])["not_measured"]
    assert {"evaluation", "graph", "id"} <= set(missing["hours"])
    assert "dataset" not in missing["hours"]
    assert "ranker" in missing["peak_gib"]
    assert "graph" in missing["gib"]
    assert "not counted in hours and cost" in err
    assert "evaluation" in err


def test_runs_that_tell_of_nothing_alike_cannot_be_compared() -> None:
    growth = Growth.of([run_of(1000, 600.0), run_of(2000, 700.0)])
    with pytest.raises(UserError, match="in common"):
        compared(growth, replace(run_of(8000, 1000.0), phases_mib={}))


def finished(root: Path, users: int) -> None:
    """What `pipeline` leaves of a log, as far as plans read it."""
    fields: dict[str, Any] = {"seconds": 9.0, "peak_mib": 500.0 + users}
    fields["details"] = {"counts": dict.fromkeys(COUNTS, users)}
    with publish(root, "dataset", "v1", **fields) as draft:
        (draft.path / "events").write_bytes(b"0" * users)
    point(root, read(root / "dataset" / "v1"))
    with publish(root, "ranker", "not current", seconds=1.0, peak_mib=900.0):
        pass


def test_roots_behind_uris_tell_what_roots_here_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [str(tmp_path / "small"), str(tmp_path / "large")]
    for root, users in zip(roots, (100, 200), strict=True):
        finished(Path(root), users)
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    uris = [f"file://{root}" for root in roots]
    found = runs_of(load(PlanSettings, [f"measured=[{','.join(uris)}]"]))
    assert found == runs_of(load(PlanSettings, [f"measured=[{','.join(roots)}]"]))
    assert found[1].bytes["data set"] - found[0].bytes["data set"] == 100
    assert found[0].peak_mib == {"dataset": 600.0, "ranker": 900.0}
    with pytest.raises(UserError, match=r"pipeline root=file:///nowhere first"):
        runs_of(load(PlanSettings, ["measured=[file:///nowhere]"]))


@pytest.mark.parametrize(("users", "times"), [(1000, 2), (100_000, 0)])
def test_runs_that_fill_no_buffers_are_warned_of(
    users: int, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.warn_of_small([run_of(users, 600.0), run_of(2 * users, 700.0)], Console(stderr=True))
    assert capsys.readouterr().err.count("too steep") == times


def test_lines_are_compared_with_a_larger_run() -> None:
    growth = Growth.of([run_of(1000, 600.0), run_of(2000, 700.0)])
    found = compared(growth, run_of(8000, 1000.0))
    assert found["dataset"]["predicted_mib"] == pytest.approx(1300)
    assert found["largest"]["error"] == pytest.approx(0.3)
    assert found["two_tower"]["measured_mib"] == 500


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["users=[10]", "items=[1,2]"], "items= needs 1 numbers"),
        (["usrs=[10]"], "usrs"),
        (["users=[]"], "needs a number of users"),
        (["cores=4"], "roots of measured=: name them"),
        (["host.price=.inf"], "host.price: Input should be a finite number"),
        (["events_per_user=.inf"], "events_per_user: Input should be a finite number"),
        (["measured=[/nowhere]"], "run ray_jobs.pipeline root=/nowhere first"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_help_names_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert (plan.__doc__ or "").splitlines()[0] in told
    for word in ("users", "measured", "host.gib", "traffic.peak"):
        assert f"  {word} " in told


def test_one_size_draws_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "measured.json").write_text(json.dumps([asdict(run_of(1000, 600.0))]))
    monkeypatch.setattr(plan, "OURS", tmp_path / "measured.json")
    with pytest.raises(UserError, match="two sizes"):
        Growth.of(runs_of(load(PlanSettings, [])))
