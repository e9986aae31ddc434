"""What a sweep in object storage knows on a machine that has not seen its root before."""

import json
from dataclasses import asdict

import pytest

from data.contract.artifact import write_atomically
from data.contract.mirrors import PLACE
from data.contract.settings import UserError
from ray_jobs.engine.job import start
from ray_jobs.tune import TuneArguments
from ray_jobs.tuning.findings import TRIALS
from ray_jobs.tuning.searches import Searches
from ray_jobs.tuning.trial import Trial

DROPOUT = "two_tower.id_dropout"
STUDY = ["search=tpe", f"space.{DROPOUT}=[0,0.7]"]
EARLIER = Trial(choice={DROPOUT: 0.25}, seed=0, validation={"ndcg@50": 0.5})


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this process one on a machine of a name; gives what it finds in the root's words."""

    def searches(name, *words):
        monkeypatch.setenv(PLACE, str(tmp_path / name))
        return Searches.of(start([f"root=file://{tmp_path}/root", *STUDY, *words], TuneArguments))

    return searches


def begun(searches, concurrency):
    return searches.stages(concurrency)[0].make().spec


def test_a_study_keeps_its_lag_on_another_machine(machine):
    assert begun(machine("first"), 4).lag == 6
    assert begun(machine("second"), 1).lag == 6
    assert begun(machine("first", "space.two_tower.id_dropout=[0,0.5]"), 1).lag == 1


def test_earlier_sweeps_are_found_where_they_were_put(machine, tmp_path):
    lines = json.dumps([{"search": "grid", **asdict(EARLIER)}])
    for folder in ("root/tune/v1", "elsewhere"):
        write_atomically(tmp_path / folder / TRIALS, lines)
    for name in ("v1", f"file://{tmp_path}/elsewhere", f"{tmp_path}/elsewhere"):
        found = machine("first", f"warm_start={name}").spec
        assert found.earlier == (({DROPOUT: 0.25}, (0.5,)),)
    with pytest.raises(UserError, match=f"version below file://{tmp_path}/root/tune"):
        machine("first", "warm_start=v2")


def test_what_a_sweep_was_changed_to_counts(machine, tmp_path):
    for value in (0.5, 0.6):
        line = asdict(EARLIER) | {"search": "grid", "validation": {"ndcg@50": value}}
        write_atomically(tmp_path / "root" / "tune" / "v1" / TRIALS, json.dumps([line]))
        assert machine("first", "warm_start=v1").spec.earlier[0][1] == (value,)
