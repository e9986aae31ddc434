"""What is served is what the training code says: real models, exported, indexed, asked."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from data.contract import artifact
from data.contract.calibration import Calibrators
from data.contract.encode import encode_trends
from data.contract.schema import DAY_MS, TREND_DAYS, USER_COLUMN
from data.contract.settings import to_tree
from data.dataset import Dataset
from data.requests import UserEvents
from data.track_record import Standings, TrackRecord
from data.trends import Trends
from models.multi_interest import InterestSettings
from models.ranker import Ranker
from models.ranker_settings import RankerSettings
from models.two_tower import TwoTower, TwoTowerSettings
from models.user_encoder import UserEncoder, UserSettings
from ray_jobs.embed import user_days
from ray_jobs.engine.inference import Retriever
from ray_jobs.engine.job import Job, start
from ray_jobs.engine.ranking_model import CALIBRATION, RankingModel
from ray_jobs.export import export
from ray_jobs.index import WHOLE, index
from ray_jobs.sample import log_of
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.feed import Feed
from serve.messages import Event, Item, RecommendRequest
from serve.query import hash_interests
from serve.ranker import Ranker as ServedRanker
from serve.settings import ServeSettings
from serve.sources import TwoTower as TwoTowerSource
from serve.stages import Trace
from serve.users import User
from tests.tiny_root import TinyLog, publish_dataset


def publish_model(root: Path, kind: str, core: Any, settings: Any, dataset: Dataset) -> None:
    """Random weights, and ID tables in which some rows were never trained."""
    generator = torch.Generator().manual_seed(len(kind))
    with torch.no_grad():
        for weight in core.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    weights = {f"core.{name}": value.contiguous() for name, value in core.state_dict().items()}
    for table in core.tables(dataset.item_ids.rows + 40, dataset.user_ids.rows + 40):
        values = 0.3 * torch.randn(table.num_embeddings, table.dim, generator=generator)
        values[:5] = 0
        values[7::5] = 0
        weights[f"tables.{table.name}"] = values
    fields: dict[str, Any] = {"settings": {kind: to_tree(settings)}}
    fields["id_space"] = dataset.artifact.manifest.id_space
    if dataset.user_vectors is not None:
        fields["parents"] = [dataset.user_vectors.reference()]
    with artifact.publish(root, kind, "m1", **fields) as draft:
        save_file(weights, draft.path / "model.safetensors")
    artifact.point(root, artifact.read(root / kind / "m1"))


def job_of(root: Path, *words: str) -> Job:
    return start([f"root={root}", "windows.graph=[1, 90]", "windows.user=[1, 60]", *words])


def publish_calibrators(root: Path, dataset: Dataset) -> artifact.Artifact:
    """Calibrators of the current ranker that bend every head, unknown items and users apart."""
    actions = dataset.vocabulary.actions
    bent = [[0.8, -0.3, 0.6 + at, -0.5 - at] for at in range(len(actions))]
    parents = [artifact.current(root, "ranker").reference()]
    with artifact.publish(root, CALIBRATION, "c1", parents=parents) as draft:
        Calibrators(actions, np.array(bent)).save(draft.path)
    made = artifact.read(root / CALIBRATION / "c1")
    artifact.point(root, made)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("root")
    artifact.point(root, publish_dataset(root, TinyLog()))
    dataset = Dataset.open(root)
    job = job_of(root)
    user = UserSettings(dim=12, id_dim=8)
    user = replace(user, sequence=replace(user.sequence, max_length=9))
    publish_model(root, "user", UserEncoder(user, dataset.vocabulary), user, dataset)
    days = user_days(job, dataset, artifact.current(root, "user"))
    dataset = dataset.with_vectors(None, days)
    ranker = RankerSettings(dim=16, id_dim=8)
    interests = InterestSettings(num=3, history=6)
    two_tower = TwoTowerSettings(dim=16, id_dim=8, condition_share=0.2, interests=interests)
    two_tower = replace(two_tower, sequence=replace(two_tower.sequence, max_length=12))
    ranker = replace(ranker, sequence=replace(ranker.sequence, max_length=7))
    publish_model(root, "two_tower", TwoTower(two_tower, dataset.vocabulary), two_tower, dataset)
    publish_model(root, "ranker", Ranker(ranker, dataset.vocabulary), ranker, dataset)
    calibration = publish_calibrators(root, dataset)
    index(job, export(job))
    model = RankingModel.open(artifact.current(root, "ranker"), dataset, calibration)
    standings = Standings.of(log_of(job, dataset), WHOLE, ranker.half_life_days)
    model.record = TrackRecord(Trends.of_all(dataset), standings)
    feed = Feed(
        root,
        ServeSettings(budget_ms=60_000.0, deadlines_ms={"default": 30_000.0}),
        background=False,
    )
    yield SimpleNamespace(
        root=root,
        feed=feed,
        dataset=dataset,
        retriever=Retriever.open(
            artifact.current(root, "two_tower"), dataset, Trends.of_all(dataset)
        ),
        ranker=model,
    )
    feed.close()


def user_of(made: SimpleNamespace, user_id: int) -> User:
    funnel = made.feed._switch.funnel
    return funnel.users.read(user_id, made.feed.store, funnel.clock.now_ms())


def vector_of(made: SimpleNamespace, user: User) -> Any:
    """A user's vector on the day after the log, by the training code."""
    calendar = made.dataset.calendar
    moment = np.array([calendar.start_ms(calendar.num_days + 1)])
    return made.retriever.user_vectors(user.events, np.array([user.row]), moment)[0]


def impressions(user: User, rows: Any, surface: int = 0, about: int = 0) -> pa.Table:
    """One request that shows `rows`, as the training code reads it."""
    count = len(rows)
    labels = {f"label.{action}": np.zeros(count, bool) for action in ("save", "click", "hide")}
    columns = {
        "request_id": np.ones(count, np.int64),
        "user": np.full(count, user.row),
        "item": rows,
        "timestamp": np.full(count, user.reference_ms),
        "position": np.zeros(count, np.int64),
        "surface": np.full(count, surface),
        "context": np.full(count, about),
    }
    return pa.table(columns | labels)


def test_item_vectors_are_those_of_training(made: SimpleNamespace) -> None:
    served = made.feed._switch.funnel.bundle.item_embeddings
    np.testing.assert_allclose(served, made.retriever.item_vectors, atol=1e-5)


@pytest.mark.parametrize("user_id", [1, 3, 20, 50])
def test_user_vectors_are_those_of_training(made: SimpleNamespace, user_id: int) -> None:
    user = user_of(made, user_id)
    expected = vector_of(made, user)
    np.testing.assert_allclose(made.feed._switch.funnel._tower(user).vector, expected, atol=1e-5)


@pytest.mark.parametrize("user_id", [1, 3, 20, 50])
def test_vectors_of_interests_and_their_shares_are_those_of_training(
    made: SimpleNamespace, user_id: int
) -> None:
    user, calendar = user_of(made, user_id), made.dataset.calendar
    moment = np.array([calendar.start_ms(calendar.num_days + 1)])
    vectors, shares = made.retriever.interest_vectors(user.events, np.array([user.row]), moment)
    served = made.feed._switch.funnel._tower(user)
    np.testing.assert_allclose(served.lists, vectors[0], atol=1e-5)
    np.testing.assert_allclose(served.shares, shares[0], atol=1e-5)
    assert served.shares.sum() == pytest.approx(1)
    assert len(served.lists) == 4


def test_a_condition_turns_the_vector(made: SimpleNamespace) -> None:
    user = user_of(made, 3)
    asked = hash_interests(["topic1", "topic2"])
    found = made.feed._switch.funnel._tower(user, asked)
    assert found.conditioned.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(found.conditioned, axis=1), 1, atol=1e-5)
    assert not np.allclose(found.conditioned[0], found.conditioned[1], atol=1e-4)
    assert not np.allclose(found.conditioned[0], found.vector, atol=1e-4)


def test_lists_of_several_vectors_take_turns(made: SimpleNamespace) -> None:
    funnel = made.feed._switch.funnel
    query = funnel.query(RecommendRequest(user_id=3), Trace(), np.zeros(0, np.int64))
    answers = query.answers
    found = TwoTowerSource(funnel.catalogue)(query, 20)
    assert len(np.unique(found.rows)) == len(found.rows) == 20
    lists = [funnel.catalogue.nearest(v, 20, query.exclude, 1.0)[0] for v in answers.lists]
    assert set(found.rows.tolist()) > {int(one[0]) for one in lists[1:]}
    assert found.rows[0] == lists[0][0]


def test_users_differ_by_their_long_term_vectors(made: SimpleNamespace) -> None:
    """Else the tests here would not notice if they were left out."""
    users = made.feed._switch.funnel.bundle.users
    vectors = users.gather(np.arange(made.dataset.user_ids.rows))[f"user.{USER_COLUMN}"]
    assert len(np.unique(vectors.round(3), axis=0)) > 30
    user = user_of(made, 3)
    moment = np.array([made.dataset.calendar.first_day_ms])
    before = made.retriever.user_vectors(user.events, np.array([user.row]), moment)[0]
    assert not np.allclose(before, vector_of(made, user), atol=1e-3)


def test_priors_are_those_of_training_on_the_day_after_the_log(made: SimpleNamespace) -> None:
    served = made.feed._switch.funnel.bundle.item_priors
    trained = made.retriever.priors(made.dataset.calendar.num_days + 1)
    np.testing.assert_allclose(served, trained, atol=1e-5)
    assert len(np.unique(served.round(6))) > 3


@pytest.mark.parametrize("user_id", [1, 3, 20, 50])
def test_retrieval_scores_are_those_of_training(made: SimpleNamespace, user_id: int) -> None:
    user, funnel = user_of(made, user_id), made.feed._switch.funnel
    rows, scores = funnel.catalogue.nearest(
        funnel._tower(user).vector, 50, np.zeros(0, np.int64), 1.0
    )
    vector = vector_of(made, user)
    priors = made.retriever.priors(made.dataset.calendar.num_days + 1)
    expected = made.retriever.item_vectors[rows] @ vector + priors[rows]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("user_id", [1, 3, 20, 50])
def test_served_predictions_are_those_of_training(made: SimpleNamespace, user_id: int) -> None:
    user = user_of(made, user_id)
    funnel = made.feed._switch.funnel
    rows = np.asarray(funnel.bundle.live_items[:150])
    expected = made.ranker.probabilities(
        impressions(user, rows), UserEvents(funnel.bundle.histories)
    )
    np.testing.assert_allclose(funnel.ranker(user, rows), expected, atol=1e-5)
    assert len(np.unique(made.ranker.segments(impressions(user, rows))[:, 0])) == 2


def test_where_a_feed_is_shown_matters_as_in_training(made: SimpleNamespace) -> None:
    user, funnel = user_of(made, 3), made.feed._switch.funnel
    rows, events = np.asarray(funnel.bundle.live_items[:50]), UserEvents(funnel.bundle.histories)
    found = {}
    for code, name in enumerate(("elsewhere", *funnel.bundle.vocabulary.surfaces)):
        found[name] = funnel.ranker(user, rows, name)
        expected = made.ranker.probabilities(impressions(user, rows, code), events)
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    assert not np.allclose(found["elsewhere"], found["home"], atol=1e-4)


def test_what_a_request_is_about_matters_as_in_training(made: SimpleNamespace) -> None:
    user, funnel = user_of(made, 3), made.feed._switch.funnel
    rows, events = np.asarray(funnel.bundle.live_items[:50]), UserEvents(funnel.bundle.histories)
    found = []
    for row in (0, *rows[[4, 40]].tolist()):
        about = np.array([row] if row else [], np.int64)
        found.append(funnel.ranker(user, rows, "home", about))
        expected = made.ranker.probabilities(impressions(user, rows, 1, row), events)
        np.testing.assert_allclose(found[-1], expected, atol=1e-5)
    assert all(np.abs(one - found[0]).max() > 1e-3 for one in found[1:])


def test_several_threads_rank_as_one_does(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.ranker.SHARED", 10)
    funnel = made.feed._switch.funnel
    user, rows = user_of(made, 3), np.asarray(funnel.bundle.live_items[:50])
    expected = ServedRanker(funnel.bundle, funnel.catalogue)(user, rows)
    several = ServedRanker(funnel.bundle, funnel.catalogue, threads=3)
    np.testing.assert_allclose(several(user, rows), expected, atol=1e-6)
    with several._alone:  # while another request is ranked
        np.testing.assert_allclose(several(user, rows), expected, atol=1e-6)
    assert not several._alone.locked()


def test_requests_ranked_in_one_run_are_ranked_as_alone(made: SimpleNamespace) -> None:
    funnel = made.feed._switch.funnel
    alone = ServedRanker(funnel.bundle, funnel.catalogue)
    rows = np.asarray(funnel.bundle.live_items[:50])
    asked = [
        (alone.read(user_of(made, user)), candidates)
        for user, candidates in ((3, rows), (7, rows[:1]), (5, rows[::-2]), (4, rows[:0]))
    ]
    found = alone._ranked(asked)
    for given, one in zip(found, asked, strict=True):
        np.testing.assert_allclose(given, alone.rank(*one), atol=1e-6)
    together = ServedRanker(funnel.bundle, funnel.catalogue, together=8)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: together.rank(*one), asked * 5))
    for given, one in zip(found, asked * 5, strict=True):
        np.testing.assert_allclose(given, alone.rank(*one), atol=1e-6)


def test_exports_of_another_form_are_made_anew(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(made.root)
    known = export(job, move_pointer=False).version
    assert export(job, move_pointer=False).version == known
    monkeypatch.setattr("ray_jobs.export.FORM", 1)
    assert export(job, move_pointer=False).version != known


def test_integers_of_8_bits_are_served_where_asked_for_and_are_near_training(
    made: SimpleNamespace,
) -> None:
    job = job_of(made.root, "export.ranker=int8")
    bundle = Bundle.open(index(job, export(job, move_pointer=False), move_pointer=False).path)
    user, rows = user_of(made, 3), np.asarray(bundle.live_items[:150])
    expected = made.ranker.probabilities(impressions(user, rows), UserEvents(bundle.histories))
    given = ServedRanker(bundle, Catalogue(bundle))(user, rows)
    np.testing.assert_allclose(given, expected, atol=0.02)
    assert not np.allclose(given, expected, atol=1e-5)
    assert bundle.details["ranker_arithmetic"] == "int8"
    assert ServedRanker(bundle, Catalogue(bundle), together=8)._together is None
    several = ServedRanker(bundle, Catalogue(bundle), threads=2)(user, rows)  # and nobody else
    np.testing.assert_array_equal(several, given)
    assert made.feed._switch.funnel.bundle.details["ranker_arithmetic"] == "full"


def test_a_user_without_events_is_served_what_training_says(made: SimpleNamespace) -> None:
    lengths = TinyLog().lengths
    user_id = 1 + int(np.flatnonzero(lengths == 0)[0])
    user = user_of(made, user_id)
    assert len(user.events.item) == 0
    expected = vector_of(made, user)
    np.testing.assert_allclose(made.feed._switch.funnel._tower(user).vector, expected, atol=1e-5)


def test_new_users_and_posted_items_go_through_the_real_models(made: SimpleNamespace) -> None:
    made.feed.post_items([Item(item_id=5000, content=[0.5] * 8, interests=["topic1"], quality=3)])
    made.feed.post_events([Event(user_id=777, item_id=5000, action="save")])
    answer = made.feed.recommend(RecommendRequest(user_id=777, num_items=50))
    assert answer.fallback is False
    assert len(answer.items) == 50
    assert all(0 < p < 1 for item in answer.items for p in item.predictions.values())
    similar = made.feed.similar(5000, 5)
    assert similar is not None
    assert all(-1.001 < item.score < 1.001 for item in similar.items)


def test_a_posted_item_gains_what_training_gives_one_of_its_age(made: SimpleNamespace) -> None:
    funnel, calendar = made.feed._switch.funnel, made.dataset.calendar
    end_ms = calendar.start_ms(calendar.num_days + 1)
    created_at = np.array([end_ms - 300 * DAY_MS, end_ms + DAY_MS])
    made.feed.post_items(
        [Item(item_id=6000 + at, created_at=int(ms)) for at, ms in enumerate(created_at)]
    )
    unseen = encode_trends(np.zeros((2, len(TREND_DAYS)), np.int64), created_at, end_ms)
    expected = made.retriever.core.prior({n: torch.from_numpy(a) for n, a in unseen.items()})
    rows = funnel.catalogue.rows_of([6000, 6001])
    found = funnel.catalogue.priors(rows)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)
    assert abs(found[0] - found[1]) > 1e-3
    query = np.zeros(funnel.bundle.dim, np.float32)
    near, scores = funnel.catalogue.nearest(query, 1000, np.zeros(0, np.int64), 1.0)
    gained = dict(zip(near.tolist(), scores.tolist(), strict=True))
    np.testing.assert_allclose([gained[row] for row in rows.tolist()], found, atol=1e-6)
