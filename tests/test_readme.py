"""What the README tells people to type is understood by what it is typed into."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from data.contract.settings import build
from data.world.population import IdKind, external_ids
from data.world.settings import WorldSettings, resolve
from models.two_tower import TwoTowerSettings, build_two_tower
from ray_jobs.engine.job import start
from ray_jobs.pipeline import PipelineArguments
from serve.messages import Event, RecommendRequest
from tests.models import cases

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.split("#")[0].strip()
]


def test_the_jobs_are_there_and_understand_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)  # no root here remembers anything
    jobs = [words[words.index("-m") :] for words in COMMANDS if "-m" in words]
    assert len(jobs) >= 4
    for _, module, *words in jobs:
        assert importlib.util.find_spec(module) is not None
        start(words, PipelineArguments)


def test_the_bodies_of_the_examples_are_accepted() -> None:
    bodies = {
        next(word for word in words if word.startswith("http")).rsplit("/", 1)[1]: json.loads(
            words[words.index("-d") + 1]
        )
        for words in COMMANDS
        if words[0] == "curl"
    }
    request = RecommendRequest.model_validate(bodies["recommend"])
    event = Event.model_validate(bodies["events"]["events"][0])
    assert event.action == "save"
    # Both are of the default world, so that a newcomer's first feed is somebody's own.
    world, known = resolve(WorldSettings()), np.arange(100)
    users, items = (external_ids(known, world, kind) for kind in (IdKind.USER, IdKind.ITEM))
    assert {request.user_id, event.user_id} <= set(users.tolist())
    assert event.item_id in items


def test_the_model_of_ones_own_learns_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "models.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = build(TwoTowerSettings, {"kind": "acme.models:MyTower", "id_dim": 16})
    model = build_two_tower(settings, cases.vocabulary())
    assert type(model).__module__ == "acme.models"
    assert set(model.programs()) == {"item_tower", "user_tower", "item_prior"}
    batch = cases.two_tower_batch(cases.visits())
    loss, _ = model(cases.rows_of(batch, cases.tables()), batch)
    loss.backward()
    program = model.user_tower.program()
    assert len(program.module(program.inputs)) == len(program.outputs)
    sys.modules.pop("acme.models")
