"""What smaller numbers cost the ranker: `python -m tests.benchmarks.ranker_precision root=...`.

The ranker that the root's bundle serves, by the classes that serve, in three forms: as exported, in
32-bit numbers (`full`); with products of 8-bit integers in the item side, as `export.ranker=int8`
writes it (`int8`); with all weights rounded to bfloat16 and computed in 32 bits (`bf16`). Asked are
impressions of the reported days, users as they were at the time, and for some of those requests
(lists=200) the 500 candidates that the index finds. The last line is one JSON object:

- `auc`: of each action and form, on the impressions (the bundle's item vectors and counts are
  as of the last day, so these are not the figures of `evaluate`, and flatter);
- `largest`, `mean`: difference of a probability to the full form's, over impressions and lists;
- `ndcg@50`: of a form's order of 500, by the served utility, where the gain of an item is what
  the full form gives it above the lowest of the list.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from data.contract.artifact import current
from data.dataset import Dataset
from data.requests import Requests
from models.metrics import auc
from ray_jobs.engine.job import start
from ray_jobs.engine.predictions import read_impressions
from ray_jobs.engine.quantisation import to_int8
from ray_jobs.sample import log_of
from serve.bundle import Bundle
from serve.catalogue import Catalogue
from serve.programs import Program
from serve.ranker import Ranker
from serve.retrieval import UserTower
from serve.users import User
from serve.utility import Utility, UtilitySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from data.contract.encode import Events

CANDIDATES, PLACES = 500, 50
IMPRESSIONS, LISTS, EVENTS = 40_000, 200, 1000
FORMS = ("full", "int8", "bf16")
SIDES = ("ranker_user", "ranker_items")
NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Forms:
    """One bundle, its ranker by form."""

    bundle: Bundle
    catalogue: Catalogue
    rankers: dict[str, Ranker]

    @classmethod
    def open(cls, root: Path, folder: Path) -> Forms:
        """Opens the current bundle and writes the other forms to a folder."""
        bundle = Bundle.open(current(root, "bundles").path)
        programs = bundle.artifact.path / "programs"
        catalogue = Catalogue(bundle)
        to_int8(programs / "ranker_items.onnx", made(folder / "int8") / "ranker_items.onnx")
        for name in SIDES:
            to_bf16(programs / f"{name}.onnx", made(folder / "bf16") / f"{name}.onnx")
        rankers = {"full": Ranker(bundle, catalogue)}
        for form in FORMS[1:]:
            own = {path.stem: Program(path) for path in (folder / form).glob("*.onnx")}
            other = replace(bundle, programs=bundle.programs | own)
            rankers[form] = Ranker(other, catalogue)
        return cls(bundle, catalogue, rankers)

    def __call__(self, user: User, rows: Any) -> Any:
        """Probabilities by each form, [forms, N, actions]."""
        return np.stack([ranker(user, rows) for ranker in self.rankers.values()])


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def to_bf16(path: Path, target: Path) -> None:
    """Rounds all 32-bit weights of a program through bfloat16."""
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = torch.from_numpy(numpy_helper.to_array(weight).copy())
            rounded = values.bfloat16().float().numpy()
            weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))
    onnx.save(model, target)


def impressions(root: Path) -> pa.Table:
    """Some impressions of the reported days, whole requests."""
    job = start([f"root={root}"])
    dataset = Dataset.open(root)
    windows = log_of(job, dataset).windows
    if windows is None:
        sys.exit("the log has no impressions: a data set with a clock is needed")
    files = dataset.impression_files(*windows.test)
    return read_impressions(files, IMPRESSIONS, job.settings.seed)


def asked(requests: Requests, bundle: Bundle) -> list[tuple[User, Any]]:
    """Users as they were at each request, and the items shown."""
    events = bundle.histories.before(requests.user, requests.timestamp, EVENTS)
    users = [
        User(row, row, True, one_of(events, at), moment, True)
        for at, (row, moment) in enumerate(
            zip(requests.user.tolist(), requests.timestamp.tolist(), strict=True)
        )
    ]
    return [*zip(users, np.split(requests.item, requests.offsets[1:-1]), strict=True)]


def one_of(events: Events, at: int) -> Events:
    """The events of one of many users."""
    return events.cut(events.offsets[at : at + 1], events.lengths[at : at + 1])


def of_impressions(found: Any, labels: Any, actions: Sequence[str]) -> dict[str, Any]:
    """How well each form tells apart what happened.

    Args:
        found: probabilities, [forms, N, actions].
        labels: bool[N, actions].
        actions: their names.
    """
    return {
        "auc": {
            action: {form: auc(labels[:, at], found[i, :, at]) for i, form in enumerate(FORMS)}
            for at, action in enumerate(actions)
        },
        "impressions": differences(found),
    }


def differences(found: Any) -> dict[str, dict[str, float]]:
    """Of probabilities [forms, N, actions], to those of the first form."""
    apart = np.abs(found[1:] - found[:1])
    return {
        form: {"largest": float(each.max()), "mean": float(each.mean())}
        for form, each in zip(FORMS[1:], apart, strict=True)
    }


def of_lists(forms: Forms, users: Sequence[User]) -> dict[str, Any]:
    """How each form orders what the index finds for users."""
    tower = UserTower(forms.bundle, forms.catalogue)
    utility = Utility.of(UtilitySettings(), forms.bundle.vocabulary)
    rows = [
        forms.catalogue.nearest(tower(user).vector, CANDIDATES, NOTHING, 1.0)[0] for user in users
    ]
    found = [forms(user, each) for user, each in zip(users, rows, strict=True)]
    ndcg = np.array([orders(np.stack([utility.user(one) for one in each])) for each in found])
    return {
        **differences(np.concatenate(found, 1)),
        f"ndcg@{PLACES}": dict(zip(FORMS, ndcg.mean(0).tolist(), strict=True)),
        f"least_ndcg@{PLACES}": dict(zip(FORMS, ndcg.min(0).tolist(), strict=True)),
    }


def orders(utility: Any) -> Any:
    """nDCG of each form's order by the gains of the first form.

    Args:
        utility: of a list's items by form, [forms, N].

    Returns:
        [forms].
    """
    gains = utility[0] - utility[0].min()
    places = np.argsort(-utility, axis=1, kind="stable")[:, :PLACES]
    discounted = gains[places] @ (1 / np.log2(np.arange(2, places.shape[1] + 2)))
    return discounted / discounted[0]


def precision(root: Path, lists: int) -> dict[str, Any]:
    """The figures of the last line."""
    with tempfile.TemporaryDirectory() as folder:
        forms = Forms.open(root, Path(folder))
        actions = forms.bundle.vocabulary.actions
        requests = Requests.of(impressions(root), actions)
        pairs = asked(requests, forms.bundle)
        found = np.concatenate([forms(*pair) for pair in pairs], 1)
        chosen = np.random.default_rng(0).choice(len(pairs), min(lists, len(pairs)), replace=False)
        return {
            "requests": len(pairs),
            **of_impressions(found, requests.labels > 0, actions),
            "lists": of_lists(forms, [pairs[at][0] for at in chosen]),
        }


def main() -> None:
    """Runs and prints."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    found = precision(Path(words["root"]), int(words.get("lists", LISTS)))
    print(json.dumps({"name": "ranker_precision"} | found))


if __name__ == "__main__":
    main()
