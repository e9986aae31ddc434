"""Arms of the ranker: `python -m tests.benchmarks.ranker_in_world root=... seeds=3`.

On a root of the built-in world that a pipeline has finished, the ranker is trained in several ways,
each a change of one thing, then calibrated, exported and indexed in a copy of the root, and asked
for feeds through the serving classes. By the world's own probabilities: utility, saves and hides of
a served item and its share of what `oracle_truth` reaches; the same of sessions that people answer
(`respond`), in which what they do is posted before the next request; how many topics a feed has;
how much of it one more action changes; AUC on the impressions that were drawn at random; and
nDCG@50 of its order of what the index finds for some users, by what the default's ranker gives it.
Differences from the default are paired by user. arms= names some arms; finished ones are found
again. Each core works on an arm of its own. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.artifact import current
from data.dataset import Dataset
from data.requests import UserEvents
from data.splits import TEST, TRAIN, VALID
from data.training_log import TrainingLog
from data.world.oracles import expected_actions, known_users
from data.world.population import IdIndex, IdKind
from data.world.settings import ACTIONS
from data.world.simulation import Simulator
from data.world.state import WorldState
from models.metrics import auc
from ray_jobs.calibrate import calibrate
from ray_jobs.engine.job import start
from ray_jobs.engine.ranking_model import RankingModel, users_of
from ray_jobs.engine.subject import Subject
from ray_jobs.export import export
from ray_jobs.index import index
from ray_jobs.simulate import latents_folder
from ray_jobs.train import sources_of, train
from serve.feed import Feed
from serve.messages import Event, RecommendRequest
from serve.utility import Utility, UtilitySettings
from tests.benchmarks.arms import changed, on_each_core
from tests.benchmarks.feed_utility import PATIENT, some_users
from tests.benchmarks.intervals import difference
from tests.benchmarks.ranker_precision import orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.contract.encode import Ints
    from ray_jobs.engine.job import Job
    from serve.funnel import Funnel

DEFAULT = "default"
SMALL, TAUGHT = "a quarter of the width", "a quarter taught by the whole"
QUARTER = {"ranker.hidden": 256}


def alone(action: str) -> dict[str, Any]:
    """Settings of a ranker that learns one action."""
    return {"ranker.action_weights": {other: 0.0 for other in ACTIONS if other != action}}


ARMS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "average of the history": {"ranker.history": "average"},
    "no history": {"ranker.history": "none"},
    "with the long-term vector": {"ranker.user_vectors": True},
    "long-term vector alone": {"ranker.user_vectors": True, "ranker.history": "none"},
    "saves alone": alone("save"),
    "hides alone": alone("hide"),
    "time mask of a day": {"ranker.time_mask_hours": 24.0},
    "candidate in every token": {"ranker.history": "fusion"},
    "candidate appended": {"ranker.history": "appended"},
    SMALL: QUARTER,
    TAUGHT: QUARTER,
}
PLACES, USERS, SESSION_USERS, MOST_REQUESTS = 10, 300, 150, 5
LISTS, LIST = 100, 500
NOTHING = np.zeros(0, np.int64)
SLOT_MS = 60_000


@dataclass(frozen=True)
class Judged:
    """What one trained ranker's feeds are worth.

    Attributes:
        served: of each user: utility, save, hide, topics, changed.
        share: of the utility that `oracle_truth` reaches.
        lists: utility that the ranker gives the items that the index finds, [users, LIST].
        answered: of each user of sessions: saves, hides and requests.
        random_auc: action -> AUC on impressions drawn at random.
    """

    served: dict[str, Any]
    share: float
    lists: Any
    answered: dict[str, Any]
    random_auc: dict[str, float]


class Judge:
    """Asks a feed, and the world what its users would do."""

    def __init__(self, job: Job) -> None:
        """Opens the bundle of a root."""
        calendar = Dataset.open(job.root).calendar
        assert calendar is not None
        self.day, self.latents = calendar.num_days, latents_folder(job)
        self.state = WorldState.load(self.latents, self.day)
        self.feed = Feed(job.root, PATIENT, background=False)
        self.funnel: Funnel = self.feed._switch.funnel
        self.items = IdIndex(len(self.state.population.items), self.state.world, IdKind.ITEM)
        self.weights = np.array([action.utility for action in self.state.world.actions])

    def ask(self, user_id: int) -> list[int]:
        """External ids of a feed."""
        answer = self.feed.recommend(RecommendRequest(user_id=user_id, num_items=PLACES))
        return [int(item.item_id) for item in answer.items]

    def served(self, user_id: int) -> dict[str, float]:
        """Expected actions on an item of the user's feed, what is best, and how it moves."""
        rates = expected_actions(self.state, known_users(self.state, np.array([user_id])))[:, 0]
        shown = self.ask(user_id)
        places = self.items.rows(np.array(shown))
        utility = self.weights @ rates
        best = np.sort(utility[self._unseen(user_id)])[-PLACES:]
        topics = self.state.population.items.topic[places]
        after = self._after_one_more(user_id, shown)
        return {
            "utility": float(utility[places].mean()),
            "save": float(rates[ACTIONS.index("save")][places].mean()),
            "hide": float(rates[ACTIONS.index("hide")][places].mean()),
            "best": float(best.mean()),
            "topics": float(len(np.unique(topics))),
            "changed": 1 - len(set(shown) & set(after)) / (PLACES - 1),
        }

    def lists(self, users: Sequence[int]) -> Any:
        """What the ranker gives what the index finds for users, who are as the log has them."""
        funnel, now_ms = self.funnel, self.funnel.clock.now_ms()
        known = [funnel.users.read(user, None, now_ms) for user in users]
        tower, utility = funnel._tower, Utility.of(UtilitySettings(), funnel.bundle.vocabulary)
        rows = [
            funnel.catalogue.nearest(tower(user).vector, LIST, NOTHING, 1.0)[0] for user in known
        ]
        ranked = [funnel.ranker(user, of_user) for user, of_user in zip(known, rows, strict=True)]
        return np.stack([utility.user(one) for one in ranked])

    def _unseen(self, user_id: int) -> Ints:
        """The world's rows of what may be served and the user has not touched."""
        user = self.funnel.users.read(user_id, None, self.funnel.clock.now_ms())
        rows = np.setdiff1d(np.asarray(self.funnel.bundle.live_items), user.seen)
        places = self.items.rows(np.asarray(self.funnel.bundle.item_ids.external(rows)))
        return places.astype(np.int64)

    def _after_one_more(self, user_id: int, shown: list[int]) -> list[int]:
        """The feed after its fifth item was clicked; without that item."""
        self._post(user_id, shown[PLACES // 2], "click", self.funnel.clock.now_ms())
        return self.ask(user_id)

    def _post(self, user_id: int, item_id: int, action: str, now_ms: int) -> None:
        event = Event(user_id=user_id, item_id=item_id, action=action, timestamp=now_ms)
        self.feed.post_events([event])

    def session(self, people: Simulator, user_id: int) -> dict[str, float]:
        """One session: what is done is posted before the next request."""
        found = {"saves": 0.0, "hides": 0.0, "requests": 0.0}
        for number in range(MOST_REQUESTS):
            now_ms = self.funnel.clock.now_ms() + number * SLOT_MS
            response = people.respond(user_id, self.ask(user_id), now_ms)
            found["requests"] += 1
            for done in response.actions:
                self._post(user_id, done.item_id, done.action, now_ms)
                found["saves"] += done.action == "save"
                found["hides"] += done.action == "hide"
            if response.session_ended:
                break
        return found


def arm(job: Job, name: str, seed: int, teacher: str) -> Job:
    """The job of an arm, one of which has a teacher."""
    taught = {"ranker.teacher": teacher} if name == TAUGHT else {}
    return changed(job, ARMS[name] | taught, seed)


def judged_by_words(words: list[str], name: str, seed: int) -> Judged:
    """An arm in a process of its own, in a copy of the root."""
    root = Path(start(words).root)
    copy = root.parent / f"{root.name}-arms" / f"{name.replace(' ', '_')}-{seed}"
    if not (copy / "done").is_file():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy, copy_function=os.link, symlinks=True)
    others = [word for word in words if not word.startswith("root=")]
    job = arm(start([*others, f"root={copy}"]), name, seed, current(root, "ranker").version)
    train(job, "two_tower")  # of the arms' seed and graph, made by `main`
    train(job, "ranker")
    calibrate(job)
    index(job, export(job))
    (copy / "done").touch()
    shutil.rmtree(copy / "store", ignore_errors=True)
    judge = Judge(job)
    try:
        chosen = some_users(judge.funnel, USERS + SESSION_USERS)
        people = Simulator(judge.latents, judge.day, seed)
        answered = [judge.session(people, user) for user in chosen[USERS:]]
        served = [judge.served(user) for user in chosen[:USERS]]
        lists = judge.lists(chosen[:LISTS])
    finally:
        judge.feed.close()
    columns = {key: np.array([one[key] for one in served]) for key in served[0]}
    share = float(columns["utility"].mean() / columns.pop("best").mean())
    sessions = {key: np.array([one[key] for one in answered]) for key in answered[0]}
    return Judged(columns, share, lists, sessions, random_auc(job))


def random_auc(job: Job) -> dict[str, float]:
    """AUC of each action on the reported days' impressions that were drawn at random."""
    subject = Subject.open(job, ("ranker",), {})
    dataset, windows = subject.datasets["ranker"], subject.log.windows
    assert windows is not None
    files = dataset.impression_files(*windows.test)
    shown = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    drawn = shown.filter(pa.array(np.asarray(shown["source"].to_pylist()) == "uniform"))
    parts = (TRAIN, VALID, TEST)
    model = RankingModel.open(subject.models["ranker"], dataset, subject.calibration)
    asked = users_of(drawn, dataset)
    model.knowing(subject.log, parts, asked)
    known = UserEvents.of(TrainingLog(subject.log, parts), asked)
    found, actions = model.probabilities(drawn, known), dataset.vocabulary.actions
    return {
        action: auc(np.asarray(drawn[f"label.{action}"]).astype(bool), found[:, at])
        for at, action in enumerate(actions)
    }


def mean_row(arm: list[Judged], against: list[Judged]) -> dict[str, Any]:
    """What is printed of an arm: means over seeds, and differences from the default."""
    row: dict[str, Any] = {"share of oracle_truth": float(np.mean([one.share for one in arm]))}
    pairs = [
        orders(np.stack(both))[1]
        for one, other in zip(arm, against, strict=True)
        for both in zip(other.lists, one.lists, strict=True)
    ]
    row["nDCG@50 by the default's scores"] = float(np.mean(pairs))
    for part in ("served", "answered"):
        for key in getattr(arm[0], part):
            columns = [[getattr(one, part)[key] for one in made] for made in (arm, against)]
            row[key] = {"mean": float(np.mean(columns[0]))}
            if arm is not against:
                row[key]["difference"] = difference(*columns)
    for action in arm[0].random_auc:
        values = [one.random_auc[action] for one in arm]
        row[f"AUC of {action}, drawn at random"] = float(np.mean(values))
    return row


def main() -> None:
    """Runs and prints."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    seeds, chosen = int(given.pop("seeds", "3")), given.pop("arms", "")
    words = [f"{key}={value}" for key, value in given.items()]
    names = list(dict.fromkeys([DEFAULT, *(chosen.split(",") if chosen else ARMS)]))
    job = start(words)
    teacher = current(job.root, "ranker").version
    for seed in range(seeds):
        train(arm(job, DEFAULT, seed, teacher), "two_tower", move_pointer=False)
        for name in names:
            own = arm(job, name, seed, teacher)
            sources_of(own, Dataset.open(own.root), "ranker", alone=False)
    arms = on_each_core(judged_by_words, (words,), names, seeds)
    line = {
        "name": "ranker_in_world",
        "seeds": seeds,
        "users": USERS,
        "arms": {name: mean_row(arm, arms[DEFAULT]) for name, arm in arms.items()},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
