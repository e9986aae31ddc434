import json
from types import SimpleNamespace

import numpy as np
import pytest

from data.contract.settings import UserError
from data.dataset import Dataset
from ray_jobs.balance import UNTOLD, BalanceArguments, apply, main
from ray_jobs.engine import offers, slates
from ray_jobs.engine.job import help_text, start
from serve import utility_file
from serve.utility import UtilitySettings
from tests.data.user_events import events_of

PARTIES = (
    "serve.utility.parties.video.weights.click=1",
    "serve.utility.parties.video.column=format",
    "serve.utility.parties.video.values=[video]",
    "serve.utility.parties.creator.weights.closeup=1",
)
WORDS = (*PARTIES, "requests=logged", "floors.video=.9", "top=3", "trials=40")
RETRIEVED = (*PARTIES, "serve.candidates=60", "floors.video=.4", "top=5", "trials=40")


class Fixed:
    """A ranker whose probabilities hang on user and item alone."""

    asked, last, known = 0, None, ()

    def __init__(self, actions):
        self.actions = actions

    def knowing(self, log, parts, asked):
        Fixed.known = np.flatnonzero(asked).tolist()
        return self

    def probabilities(self, impressions, histories):
        Fixed.asked += 1
        Fixed.last = impressions
        assert not impressions["position"].to_numpy().any(), "as if each stood on top"
        user, item = (impressions[n].to_numpy().astype(float) for n in ("user", "item"))
        drawn = [np.sin(user * 12.9898 + item * (78.233 + a)) * 43758.5453 for a in range(4)]
        return (0.1 * np.mod(drawn, 1)).T.astype(np.float32)


class NewestFirst:
    """A retriever that has learnt nothing: the highest row wins."""

    def __init__(self, rows):
        self.rows = rows

    def scores(self, queries):
        return np.tile(np.arange(self.rows, dtype=np.float32), (len(queries), 1))


@pytest.fixture
def root(shared_root, publish_model, monkeypatch):
    """Words of a root with a retriever and a ranker that no one trained."""
    opened = SimpleNamespace(open=lambda _, dataset, *more: Fixed(dataset.vocabulary.actions))
    monkeypatch.setattr(slates, "RankingModel", opened)
    newest = SimpleNamespace(open=lambda _, dataset, trends: NewestFirst(dataset.item_ids.rows))
    monkeypatch.setattr(offers, "Retriever", newest)
    words = shared_root("balance")
    for kind in ("two_tower", "ranker"):
        publish_model(start(words), kind, window=[1, 40])
    return words


def run(words, *more):
    return main(start([*words, *more], BalanceArguments))


def test_a_floor_is_bought_from_the_user_and_checked_on_other_days(root):
    summary = run(root, *WORDS)
    assert summary["before"]["shares"]["video"] < 0.8
    assert 0.9 < summary["chosen"]["shares"]["video"] < 0.98
    assert summary["chosen"]["worth"]["user"] < summary["before"]["worth"]["user"]
    told = summary["held_out"]["floors"]["video"]
    assert told["verdict"] != "broken"
    assert told["low"] < told["share"] < told["high"]
    assert summary["held_out"]["user"]["high"] < 0
    assert summary["party_weights"]["video"] > 0
    assert summary["party_weights"]["creator"] == 0, "it has no floor"
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_what_the_retriever_offers_is_ranked_again_by_default(root):
    summary = run(root, *RETRIEVED)
    asked = Fixed.last
    assert summary["requests"]["test"] == len(np.unique(asked["user"].to_numpy()))
    assert len(asked) == 60 * summary["requests"]["test"]
    job = start(root)
    dataset = Dataset.open(job.root)
    assert set(asked["surface"].to_pylist()) == {1 + dataset.vocabulary.surfaces.index("home")}
    user = int(asked["user"][0].as_py())
    touched = events_of(dataset, np.array([user]))
    before = touched.item[touched.timestamp < asked["timestamp"][0].as_py()]
    assert not set(before.tolist()) & set(asked["item"].to_numpy()[:60].tolist())
    assert asked["known"][0].as_py() == len(before)
    assert 0.4 < summary["chosen"]["shares"]["video"] < 0.55
    assert summary["held_out"]["floors"]["video"]["verdict"] != "broken"
    fewer = run(root, *RETRIEVED, "eval.max_impressions=600")
    assert fewer["requests"] == {"valid": 10, "test": 10}


def test_only_what_users_of_the_requests_did_is_gathered(root, gathered):
    run(root, *RETRIEVED, "eval.max_impressions=600")
    assert [len(users) for users in gathered] == [10, 10]
    assert gathered[1] == Fixed.known == np.unique(Fixed.last["user"].to_numpy()).tolist()


def test_the_artefact_holds_report_plot_and_all_trials(root):
    folder = start(root).root / "balance" / run(root, *WORDS)["version"]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 1
    assert "Pareto front" in page
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    lines = (folder / "trials.csv").read_text().splitlines()
    assert len(lines) == 1 + 40 + 1
    assert lines[0].split(",")[0] == '"weight.video"'


def test_what_is_balanced_is_not_balanced_again(root, capsys):
    first, asked = run(root, *WORDS), Fixed.asked
    capsys.readouterr()
    assert run(root, *WORDS) == first
    assert Fixed.asked == asked
    assert "Floors on the reported days" in capsys.readouterr().err
    assert run(root, *WORDS, "floors.video=.8")["version"] != first["version"]


def test_what_is_applied_is_what_a_server_takes_up(root):
    summary = run(root, *WORDS, "apply=true")
    job = start(root)
    assert summary["applied"] == str(job.root / "utility.json")
    served = utility_file.in_force(job.root, UtilitySettings())
    assert served.version == summary["utility"]
    assert served.party_weights == summary["party_weights"]
    assert served.parties.keys() == {"video", "creator"}


def test_the_file_of_the_root_is_what_is_balanced(root):
    tree = {"weights": {"hide": -20.0}, "parties": {"shop": {"weights": {"click": 1.0}}}}
    (start(root).root / "utility.json").write_text(json.dumps(tree))
    summary = run(root, "requests=logged", "floors.shop=.6", "top=3", "trials=5")
    assert summary["party_weights"].keys() == {"shop"}
    (start(root).root / "utility.json").write_text("{")
    with pytest.raises(UserError, match=r"utility\.json: not valid JSON"):
        run(root, "floors.shop=.6")


def test_a_gate_keeps_items_from_being_ranked(root):
    free = run(root, *WORDS)
    gated = run(root, *WORDS, "serve.utility.gates.hide=.02")
    assert gated["before"]["worth"]["user"] != free["before"]["worth"]["user"]
    assert gated["own_best"]["video"] < free["own_best"]["video"]


def test_a_broken_floor_is_not_applied(tmp_path):
    broken = {"video": {"floor": 0.9, "share": 0.7, "low": 0.6, "high": 0.8, "verdict": "broken"}}
    with pytest.raises(UserError, match=r"video gets 0\.6000 to 0\.8000 .* below floors\.video"):
        apply(tmp_path, UtilitySettings(), broken)
    assert not (tmp_path / "utility.json").exists()


def test_a_floor_that_cannot_be_checked_is_not_applied(tmp_path):
    share = {"floor": 0.9, "share": None, "low": None, "high": None, "verdict": UNTOLD}
    with pytest.raises(UserError, match=r"to video, so floors\.video cannot be checked"):
        apply(tmp_path, UtilitySettings(), {"video": share})
    assert not (tmp_path / "utility.json").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "balance needs a floor"),
        (["floors.ad=.5"], r"floors\.ad names no party; there are none; declare"),
        ([*PARTIES, "floors.ad=.5"], r"floors\.ad names no party; there are video, creator"),
        ([*PARTIES, "floors.video=.5", "top=900"], "top=900; lower top"),
        ([*PARTIES, "floors.video=2"], r"floors\.video: Input should be less than 1"),
    ],
)
def test_what_cannot_be_balanced_is_refused_with_the_reason(root, words, reason):
    with pytest.raises(UserError, match=reason):
        run(root, *words)


def test_without_models_the_job_names_what_is_missing(shared_root):
    with pytest.raises(UserError, match="has no ranker yet"):
        run(shared_root("bare"), *WORDS)
    with pytest.raises(UserError, match="has no two_tower yet"):
        run(shared_root("bare"), *RETRIEVED)


def test_help_names_every_word_and_how_a_party_is_declared():
    text = help_text("balance", main, BalanceArguments)
    for key in ("floors", "top", "trials", "apply", "serve.utility.parties.<name>.column"):
        assert f"\n  {key} " in text
