"""Samples neighbourhoods: `python -m ray_jobs.sample root=runs/default`.

Builds the graph of boards and items as it stood at the end of a day, and walks from every item
once. Start nodes are cut into shards, each a task of Ray Data for a large graph; a run that was
interrupted goes on with the shards that are missing. Cost grows with nodes x walks, whatever the
number of edges; memory is the shard, and one copy of the graph a host.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.contract.artifact import Artifact
from data.contract.settings import Count, UserError, to_tree
from data.dataset import Dataset
from data.graph.edges import board_edges, no_edges, user_edges
from data.graph.neighborhoods import (
    SHARD_NODES,
    SamplerSource,
    open_graph,
    shard_name,
    walk_hash,
    write_shard,
)
from data.graph.pruning import about_everything, first_interests, pruned
from data.graph.store import build_graph
from data.graph.walks import Side
from data.queries import SplitLog
from data.splits import TEST, TRAIN, VALID
from data.windows import Windows, resolve
from ray_jobs.engine.graph_groups import groups_of, reads_whole_graph, walked_sides
from ray_jobs.engine.job import Job, run
from ray_jobs.engine.links import link
from ray_jobs.preparation.block_tasks import BlockTasks
from ray_jobs.preparation.pieces import Pieces

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.artifact import Draft
    from data.contract.encode import Ints

SMALL_GRAPH_NODES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleArguments:
    """Words of the job.

    Attributes:
        day: edges are known as of the end of this day of the log; by default the last day that the
            graph encoder learns from.
    """

    day: Count | None = None


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Up to when a graph knows its edges.

    Attributes:
        parts: parts of the log whose events are edges.
        day: last day that is known, in a time split.
    """

    parts: tuple[int, ...]
    day: int | None = None

    @classmethod
    def of_training(cls, windows: Windows | None, alone: bool, refit: bool = False) -> Cutoff:
        """What the encoder learns from: `windows.graph`, alone `windows.train`; else parts."""
        if windows is None:
            return cls((TRAIN, VALID) if refit else (TRAIN,))
        return cls((TRAIN,), (windows.train if alone else windows.graph)[1])

    @classmethod
    def before_test(cls, windows: Windows | None) -> Cutoff:
        """What is known when the reported part begins."""
        return cls((TRAIN, VALID), windows.test[0] - 1 if windows else None)

    @classmethod
    def whole(cls, dataset: Dataset, windows: Windows | None) -> Cutoff:
        """Everything there is."""
        last = dataset.calendar.num_days if windows and dataset.calendar else None
        return cls((TRAIN, VALID, TEST), last)

    def last_ms(self, dataset: Dataset) -> int | None:
        """First moment that is not known any more; None where no day cuts."""
        if self.day is None or dataset.calendar is None:
            return None
        return dataset.calendar.start_ms(self.day + 1)


def adjacency(job: Job, dataset: Dataset, cutoff: Cutoff) -> Artifact:
    """The graph as of a cut-off, or finds it made already; it may have no edge (`check_edges`)."""
    groups = groups_of(job.settings, dataset)
    tree: dict[str, Any] = {
        "edges": groups,
        "prune": asdict(job.settings.graph.prune),
        "cutoff": asdict(cutoff),
    }
    if groups == "users":
        tree |= {"split": to_tree(job.settings.split), "seed": job.settings.seed}

    def write(draft: Draft) -> None:
        num_boards = _write_graph(job, dataset, cutoff, draft.path)
        graph = open_graph(draft.path.absolute())
        draft.fields["details"] = {"edges": graph.num_edges, "boards": num_boards}
        draft.fields["id_space"] = dataset.artifact.manifest.id_space

    return job.make("adjacency", [dataset.artifact], tree, write, move_pointer=False)


def check_edges(graph: Artifact) -> None:
    """Raises UserError where a graph that is not meant to be empty is."""
    tree, edges = graph.manifest.settings, graph.manifest.details["edges"]
    if edges == 0 and tree["edges"] != "none":
        raise UserError(
            f"the graph of {tree['edges']} has no edge up to day {tree['cutoff']['day']}; check "
            "graph.edges, source.boards and windows.graph"
        )


def _write_graph(job: Job, dataset: Dataset, cutoff: Cutoff, folder: Path) -> int:
    """Writes both sides; gives the number of boards."""
    last_ms = cutoff.last_ms(dataset)
    groups = groups_of(job.settings, dataset)
    if groups == "none":
        edges, num_boards = no_edges, 0
    elif groups == "boards":
        edges, num_boards = board_edges(dataset, last_ms, folder)
    else:
        edges = user_edges(log_of(job, dataset), cutoff.parts, last_ms)
        num_boards = dataset.user_ids.rows
    settings, sizes = job.settings.graph.prune, (dataset.item_ids.rows, num_boards)
    dropped = about_everything(edges, first_interests(dataset), num_boards, settings)
    build_graph(pruned(edges, sizes, settings, dropped), *sizes, folder)
    return num_boards


def log_of(job: Job, dataset: Dataset) -> SplitLog:
    """The data set under the job's split."""
    timed = job.settings.split.kind == "time"
    windows = resolve(job.settings.windows, dataset.calendar) if timed else None
    return SplitLog(dataset, job.settings.split, windows, job.settings.seed)


@dataclass(frozen=True, slots=True)
class _Shards:
    """Start nodes of one side after the other by shard, and where records go."""

    source: SamplerSource
    pieces: Pieces
    sides: tuple[tuple[Side, int], ...]

    @property
    def count(self) -> int:
        return sum(-(-size // SHARD_NODES) for _, size in self.sides)

    @property
    def num_nodes(self) -> int:
        return sum(size for _, size in self.sides)

    def nodes(self, number: int) -> tuple[Side, int, Ints]:
        """Side, shard of the side, and start nodes of a shard by its number among all."""
        for side, size in self.sides:
            if number * SHARD_NODES < size:
                first = number * SHARD_NODES
                return side, number, np.arange(first, min(first + SHARD_NODES, size))
            number -= -(-size // SHARD_NODES)
        raise IndexError(number)


def neighborhoods(job: Job, dataset: Dataset, graph: Artifact) -> Artifact:
    """Records of every item of a graph, and of users who are nodes, unless they are there."""
    sides = walked_sides(job.settings, dataset)
    walk = job.settings.graph.walk
    made_by = walk_hash(walk, job.settings.seed)

    def write(draft: Draft) -> None:
        pieces = Pieces.begin(job.root, f"neighborhoods-{draft.path.name}")
        source = SamplerSource(graph.path.absolute(), walk, job.settings.seed)
        found = open_graph(graph.path.absolute())
        sizes = {"item": found.num_items, "board": found.num_boards}
        shards = _Shards(source, pieces, tuple((side, sizes[side]) for side in sides))
        for _ in _tasks(job, shards).run(_sample_shard, shards, shards.count, "sample"):
            pass
        for file in sorted(pieces.gathered().glob("*.arrow")):
            link(file, draft.path / file.name)
        draft.scratch.append(pieces.folder)
        draft.fields["details"] = {"nodes": shards.num_nodes, "walk_hash": made_by}
        draft.fields["id_space"] = graph.manifest.id_space

    settings = {"walk": asdict(walk), "seed": job.settings.seed, "sides": list(sides)}
    return job.make("neighborhoods", [graph], settings, write, move_pointer=False)


def _tasks(job: Job, shards: _Shards) -> BlockTasks:
    """In this process, on all cores, while that takes seconds; else a shard a task."""
    prepare = job.settings.prepare
    small = shards.num_nodes <= min(SMALL_GRAPH_NODES, prepare.in_process_rows)
    cpus = job.settings.train.num_workers + 2
    return BlockTasks(0 if small else prepare.workers, cpus, anywhere=True)


def _sample_shard(shards: _Shards, number: int) -> int:
    """Writes the records of one shard unless they are there; gives how many."""
    side, shard, nodes = shards.nodes(number)

    def write(path: Path) -> None:
        write_shard(path, int(nodes[0]), shards.source.here().open().of(nodes, side))

    shards.pieces.make(shard_name(side, shard), write)
    return len(nodes)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Where records come from, and the artefacts behind them."""

    source: SamplerSource
    artifacts: tuple[Artifact, ...]


def sampled(job: Job, dataset: Dataset, cutoff: Cutoff) -> Sampled:
    """The sampler of a cut-off in the mode of the settings, rows written where it reads them.

    An encoder that reads the whole graph has no use for rows.
    """
    settings = job.settings.graph
    graph = adjacency(job, dataset, cutoff)
    check_edges(graph)
    path = graph.path.absolute()
    if settings.sampling == "on_the_fly" or reads_whole_graph(job.settings, dataset):
        return Sampled(SamplerSource(path, settings.walk, job.settings.seed), (graph,))
    rows = neighborhoods(job, dataset, graph)
    made_by = rows.manifest.details["walk_hash"]
    source = SamplerSource(path, settings.walk, job.settings.seed, rows.path.absolute(), made_by)
    return Sampled(source, (graph, rows))


def main(job: Job) -> dict[str, Any]:
    """Builds the graph as of a day and writes the neighbourhoods of all items."""
    dataset = Dataset.open(job.root)
    windows = log_of(job, dataset).windows
    day = job.arguments.day
    cutoff = Cutoff((TRAIN,), day) if day else Cutoff.of_training(windows, alone=False)
    with job.stage("sample"):
        graph = adjacency(job, dataset, cutoff)
        check_edges(graph)
        rows = neighborhoods(job, dataset, graph)
    return {"adjacency": graph.version, "neighborhoods": rows.version, **graph.manifest.details}


if __name__ == "__main__":
    run("sample", main, SampleArguments)
