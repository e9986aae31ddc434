"""A planted graph: 100 topics, five languages, most edges within the topic of their board.

One edge in five is off its board's topic and goes to what is popular elsewhere; one board in ten
is about everything; one item in ten has two topics; items' popularity is skewed within a topic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.graph.store import EDGE, Graph

Ints = npt.NDArray[np.int64]

TOPICS = 100
LANGUAGES = (0.55, 0.2, 0.12, 0.08, 0.05)
ON_TOPIC, SAME_LANGUAGE, TWO_TOPICS, EVERYTHING = 0.8, 0.7, 0.1, 0.1


@dataclass(frozen=True)
class Planted:
    """A graph and what it was made from. `second` is an item's other topic, -1 without."""

    edges: pa.Table
    graph: Graph
    topic: Ints
    second: Ints
    language: Ints

    @classmethod
    def of(cls, items: int, boards: int, edges: int) -> Planted:
        rng = np.random.default_rng(7)
        topic = np.sort(rng.integers(0, TOPICS, items))
        language = rng.choice(len(LANGUAGES), items, p=LANGUAGES)
        language = language[np.lexsort((language, topic))]
        second = np.where(rng.random(items) < TWO_TOPICS, (topic + 1) % TOPICS, -1)
        size = rng.lognormal(0, 0.7, boards)
        board = rng.choice(boards, edges, p=size / size.sum())
        item = _members(rng, board, boards, topic * len(LANGUAGES) + language)
        # An item of two topics gets half of its edges from boards of the other.
        moved = (second[item] >= 0) & (rng.random(edges) < 0.5)
        item[moved] = _two_topics(rng, item[moved], topic, second)
        times = rng.integers(1, 1 << 40, edges)
        table = pa.table([board, item, np.ones(edges), times], schema=EDGE)
        return cls(table, Graph.of(table, items, boards), topic, second, language)


def _members(rng: np.random.Generator, board: Ints, boards: int, cell: Ints) -> Ints:
    """An item of each edge: of the board's topic and language for the most part, by popularity."""
    topics, languages = rng.integers(0, TOPICS, boards), rng.choice(5, boards, p=LANGUAGES)
    stays = rng.random(len(board)) < np.where(rng.random(boards) < EVERYTHING, 0, ON_TOPIC)[board]
    topic = np.where(stays, topics[board], rng.integers(0, TOPICS, len(board)))
    speaks = rng.random(len(board)) < SAME_LANGUAGE
    others = rng.choice(5, len(board), p=LANGUAGES)
    wanted = topic * len(LANGUAGES) + np.where(speaks, languages[board], others)
    first, end = np.searchsorted(cell, wanted), np.searchsorted(cell, wanted, "right")
    skew = np.where(stays, 3, 6)
    return first + ((end - first) * rng.random(len(board)) ** skew).astype(np.int64)


def _two_topics(rng: np.random.Generator, items: Ints, topic: Ints, second: Ints) -> Ints:
    """For each item of two topics one of the topic before, whose second topic is its first."""
    theirs = np.flatnonzero(second >= 0)
    before = (topic[items] - 1) % TOPICS
    first = np.searchsorted(topic[theirs], before)
    count = np.searchsorted(topic[theirs], before, "right") - first
    return theirs[first + (count * rng.random(len(items))).astype(np.int64)]


def requests(planted: Planted, count: int, size: int, seed: int) -> list[Ints]:
    """Items by popularity, each request within one topic."""
    rng = np.random.default_rng([seed, size])
    popular = planted.graph.boards.indices
    found = []
    for _ in range(count):
        first = int(popular[rng.integers(len(popular))])
        alike = np.flatnonzero(planted.topic == planted.topic[first])
        degrees = planted.graph.items.degrees[alike].astype(float)
        others = rng.choice(alike, size - 1, p=degrees / degrees.sum())
        found.append(np.append(first, others))
    return found


def weights_of(queries: Ints) -> npt.NDArray[np.float64]:
    """By recency, the first being the last touched."""
    return 0.8 ** np.arange(len(queries))
