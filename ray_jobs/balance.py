"""Balances the user against other parties of a feed, on what was logged.

    python -m ray_jobs.balance root=runs/default serve.utility.parties.ad.weights.click=1 \
        serve.utility.parties.ad.column=campaign_id floors.ad=.7 [apply=true]

Finds the weights of parties that are worth most to the user while each party with a floor gets at
least that share of what it would get at its own best, where it alone decided. A share needs no
unit, and keeps its meaning when a model or the probabilities change. What the retriever offers to
users of the validation days is ranked again by the current ranker's probabilities, and a floor is
aimed at with the margin that its interval over users asks for; then the floors are checked on the
reported days, which had no part in the choice. Labels have none either: all are expectations.

Starts from the settings under `<root>/utility.json`, as a server does. Leaves `balance/<version>`:
report.html, front.png, trials.csv, balance.json. Cost: the ranker once over at most twice
`eval.max_impressions`; a trial is one vectorised ranking of the slates, so that time grows as
trials x impressions, memory as impressions x (parties + 2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from pyarrow import csv
from pydantic import Field

from data.contract.settings import Count, UserError, build, to_tree
from data.contract.storage import uri_of
from data.dataset import Dataset
from ray_jobs.engine import plots
from ray_jobs.engine.balance_report import USER, Tree, between, sections
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.plain_json import without_nan
from ray_jobs.engine.report import show, write_report
from ray_jobs.engine.slates import Slates, Source, open_slates, ratio_interval
from ray_jobs.engine.subject import Subject
from ray_jobs.engine.tradeoff import Point, Tradeoff
from serve import utility_file
from serve.utility import Utility, UtilitySettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from data.contract.artifact import Artifact, Draft

REPORT, FOUND = "report.html", "balance.json"
BROKEN, UNTOLD = "broken", "cannot be told"  # of a floor: what was found is not served
Floor = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceArguments:
    """Words of the job.

    Attributes:
        floors: party -> share of what it gets at its own best that it must get at least; the
            weights of these parties are searched, the others keep theirs.
        requests: what is ranked again: `retrieved`, the first `serve.candidates` of the retriever
            for users of the held-out days, or `logged`, what was shown in those days.
        top: items of a request that are shown.
        trials: weights tried.
        apply: write what was found to `<root>/utility.json`, which running servers take up; not
            when a floor is broken on the reported days.
    """

    floors: dict[str, Floor] = field(default_factory=dict)
    requests: Source = "retrieved"
    top: Count = 10
    trials: Count = 200
    apply: bool = False


def balance(job: Job) -> Artifact:
    """Finds weights and checks them. Gives the artefact; `manifest.metrics` sums it up.

    Raises:
        UserError: a floor for no party, floors that cannot all be kept, no ranker.
    """
    settings = utility_file.in_force(job.root, job.settings.serve.utility)
    utility = Utility.of(settings, Dataset.open(job.root).vocabulary)
    _check_floors(job.arguments.floors, settings)
    retrieved = job.arguments.requests == "retrieved"
    subject = Subject.open(job, ("two_tower", "ranker") if retrieved else ("ranker",), {})
    names = ("floors", "requests", "top", "trials")
    words = {name: getattr(job.arguments, name) for name in names}
    words["candidates"] = job.settings.serve.candidates

    def write(draft: Draft) -> None:
        found = without_nan(_balance(subject, utility, job.arguments))
        _write(draft.path, found, subject.facts)
        draft.fields["metrics"] = _summary(found)

    decides = subject.settings | {"utility": to_tree(settings), "balance": words}
    artifact = job.make("balance", subject.parents, decides, write)
    show(sections(json.loads((artifact.path / FOUND).read_text())))
    return artifact


def _check_floors(floors: Mapping[str, float], settings: UtilitySettings) -> None:
    if not floors:
        raise UserError("balance needs a floor: floors.<party>=<share of its own best>")
    if unknown := sorted(floors.keys() - settings.parties.keys()):
        there = ", ".join(settings.parties) or "none; declare serve.utility.parties"
        raise UserError(f"floors.{unknown[0]} names no party; there are {there}")


def _balance(subject: Subject, utility: Utility, words: BalanceArguments) -> Tree:
    """The content of `balance.json`."""
    names, seed = tuple(utility.parties), subject.job.settings.seed
    fixed = utility.party_weights.astype(np.float64)
    valid = open_slates(subject, utility, "valid", words)
    tradeoff = Tradeoff(valid, names, fixed, dict(words.floors))
    points = tradeoff.search(words.trials, seed)
    chosen = tradeoff.best_with_margin(points, seed)
    points.append(chosen)
    front = {id(point) for point in tradeoff.front(points)}
    test = open_slates(subject, utility, "test", words)
    return {
        "utility": to_tree(utility.settings),
        "floors": dict(words.floors),
        "top": words.top,
        "requests": {"valid": len(valid.users), "test": len(test.users)},
        "own_best": tradeoff.own_best,
        "before": _row(tradeoff, tradeoff.point(fixed)),
        "chosen": _row(tradeoff, chosen),
        "held_out": held_out(test, tradeoff, chosen, seed),
        "trials": [_row(tradeoff, point) | {"front": id(point) in front} for point in points],
    }


def _row(tradeoff: Tradeoff, point: Point) -> Tree:
    """A point by name, as plain values."""
    return {
        "weights": dict(zip(tradeoff.names, point.weights.tolist(), strict=True)),
        "worth": dict(zip((USER, *tradeoff.names), point.worth.tolist(), strict=True)),
        "shares": {name: tradeoff.share(point, name) for name in tradeoff.floors},
    }


def held_out(test: Slates, tradeoff: Tradeoff, chosen: Point, seed: int) -> Tree:
    """What weights come to on requests that had no part in their choice.

    Args:
        test: those requests.
        tradeoff: floors, and the weights in force before.
        chosen: the weights.
        seed: of the bootstrap over users.

    Returns:
        floors: party -> floor, share of its own best, low, high (paired, 95%), verdict; user:
        before, after, difference, low, high.
    """
    shares = tradeoff.shares_on(test, chosen, seed)
    floors = {
        name: {"floor": floor} | _told(shares[name]) | {"verdict": verdict(floor, shares[name])}
        for name, floor in tradeoff.floors.items()
    }
    after, before = (test.ranked_by(weights)[:, 0] for weights in (chosen.weights, tradeoff.fixed))
    mean, low, high = ratio_interval(test.users, after - before, np.ones_like(after), seed)
    user = {"before": float(before.mean()), "after": float(after.mean()), "difference": mean}
    return {"floors": floors, USER: user | {"low": low, "high": high}}


def _told(interval: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("share", "low", "high"), interval, strict=True))


def verdict(floor: float, share: tuple[float, float, float]) -> str:
    """What a share and its interval say of a floor."""
    _, low, high = share
    if np.isnan(low):
        return UNTOLD
    if low >= floor:
        return "holds"
    return BROKEN if high < floor else "holds within noise"


def _summary(found: Tree) -> Tree:
    """What the summary of the job carries."""
    names = ("floors", "requests", "own_best", "before", "chosen", "held_out")
    on_front = sum(row["front"] for row in found["trials"])
    return {name: found[name] for name in names} | {"front": on_front}


def _write(folder: Path, found: Tree, facts: Mapping[str, str]) -> None:
    (folder / FOUND).write_text(json.dumps(found, indent=1))
    rows = [
        {f"weight.{n}": w for n, w in row["weights"].items()}
        | {f"worth.{n}": w for n, w in row["worth"].items()}
        | {"front": row["front"]}
        for row in found["trials"]
    ]
    csv.write_csv(pa.Table.from_pylist(rows), folder / "trials.csv")
    plots.write_trade_offs(folder / "front.png", found)
    write_report(folder / REPORT, "Balance of a feed", facts, sections(found))


def main(job: Job) -> dict[str, Any]:
    """Finds the weights of parties that are worth most to the user while floors are kept.

    Parties are declared in serve.utility.parties. A floor is a share of what the party would get
    at its own best: floors.<party>=.7. Weights are chosen on the validation days, by the current
    ranker; the floors are then checked on the reported days. apply=true serves them.
    """
    with job.stage("balance"):
        artifact = balance(job)
    metrics = artifact.manifest.metrics
    chosen = build(UtilitySettings, artifact.manifest.settings["utility"])
    chosen = replace(chosen, party_weights=metrics["chosen"]["weights"])
    applied = None
    if job.arguments.apply:
        applied = uri_of(apply(job.root, chosen, metrics["held_out"]["floors"]))
    return {
        "version": artifact.version,
        "utility": chosen.version,
        "party_weights": chosen.party_weights,
        **metrics,
        "applied": applied,
        "report": uri_of(artifact.path / REPORT),
    }


def apply(root: Path, chosen: UtilitySettings, floors: Mapping[str, Tree]) -> Path:
    """Writes the file that running servers take up.

    Raises:
        UserError: a floor is broken, or cannot be checked.
    """
    if untold := [name for name, v in floors.items() if v["verdict"] == UNTOLD]:
        raise UserError(
            f"not applied: nothing that the reported days offer is worth anything to {untold[0]}, "
            f"so floors.{untold[0]} cannot be checked; see serve.utility.parties.{untold[0]}"
        )
    if broken := [name for name, v in floors.items() if v["verdict"] == BROKEN]:
        found = floors[broken[0]]
        raise UserError(
            f"not applied: on the reported days {broken[0]} gets {between(found)} of its own best, "
            f"below floors.{broken[0]}={found['floor']}; raise the floor"
        )
    return utility_file.write(root, chosen)


if __name__ == "__main__":
    run("balance", main, BalanceArguments)
