"""Pools of the stale embedding source, and the set of pairs already acted on (compiled).

Shapes: N users, M interests, I items, K topics, D latent dimensions, P pool size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from data.world.population import Flags, Floats, Rows

FOREIGN_PENALTY = 3.0
NO_INTEREST = -12.0  # log weight of an interest that a user does not have
UNSEEN = np.float32(-1e30)


@dataclass(slots=True)
class Pools:
    """What the embedding source may show to each user.

    Attributes:
        items: Item rows, the most probable first, [N, P]; -1 where a pool is shorter.
        probabilities: Softmax over the pool, 0 where it is shorter, [N, P].
    """

    items: Rows
    probabilities: Floats


class PoolUsers(NamedTuple):
    """What the policy believes about users.

    Attributes:
        interests: Estimated interests times the sharpness, [N, M, D].
        log_weights: Estimated log weight of each interest, [N, M].
        topics: Topic of each interest, [N, M].
        language: Language, [N].
    """

    interests: Floats
    log_weights: Floats
    topics: Rows
    language: Rows


class PoolItems(NamedTuple):
    """Items as the policy sees them, with an index by topic.

    Attributes:
        vector: Unit latent vectors, [I, D].
        bias: Added to an item's score for everybody, [I].
        language: Language, [I].
        by_topic: Item rows ordered by topic, [I].
        starts: Where each topic starts in `by_topic`, [K + 1].
        neighbours: Topics that are searched for an interest in a topic, [K, 3].
    """

    vector: Floats
    bias: Floats
    language: Rows
    by_topic: Rows
    starts: Rows
    neighbours: Rows


def build_pools(users: PoolUsers, items: PoolItems, size: int) -> Pools:
    """Softmax over the best `size` items near each user's interests.

    An item's score is its bias plus the best over interests of `log weight + cosine x
    sharpness`; only items of the interests' topics and their neighbours are looked at.
    """
    rows, probabilities = _build_pools(users, items, size)
    return Pools(rows, probabilities)


@numba.njit(cache=True)
def _build_pools(users: PoolUsers, items: PoolItems, size: int) -> tuple[Rows, Floats]:
    num_users = len(users.topics)
    pool = np.full((num_users, size), -1, np.int32)
    probabilities = np.zeros((num_users, size), np.float32)
    scores = np.full(len(items.vector), UNSEEN)
    candidates = np.empty(len(items.vector), np.int32)
    for user in range(num_users):
        count = _score_candidates(users, user, items, scores, candidates)
        found = candidates[:count]
        best = _best(found, scores[found], size)
        weights = np.exp(scores[best] - scores[best[:1]])
        pool[user, : len(best)] = best
        probabilities[user, : len(best)] = weights / weights.sum()
        scores[found] = UNSEEN
    return pool, probabilities


@numba.njit(cache=True)
def _best(rows: Rows, scores: Floats, size: int) -> Rows:
    """The rows of the highest scores, best first."""
    if len(rows) > size:
        threshold = -np.partition(-scores, size - 1)[size - 1]
        rows, scores = rows[scores >= threshold], scores[scores >= threshold]
    return rows[np.argsort(-scores)[:size]]


@numba.njit(cache=True, fastmath={"reassoc", "contract"})
def _score_candidates(
    users: PoolUsers, user: int, items: PoolItems, scores: Floats, candidates: Rows
) -> int:
    """Writes the scores of one user's candidates and their rows; returns their number."""
    count = 0
    for interest in range(users.topics.shape[1]):
        if users.log_weights[user, interest] < NO_INTEREST:
            continue
        query = users.interests[user, interest]
        for topic in items.neighbours[users.topics[user, interest]]:
            for row in items.by_topic[items.starts[topic] : items.starts[topic + 1]]:
                score = users.log_weights[user, interest] + items.bias[row]
                for d in range(len(query)):
                    score += query[d] * items.vector[row, d]
                if items.language[row] != users.language[user]:
                    score -= np.float32(FOREIGN_PENALTY)
                if scores[row] == UNSEEN:
                    candidates[count] = row
                    count += 1
                scores[row] = max(scores[row], score)
    return count


@numba.njit(cache=True)
def draw_from_pools(pool_items: Rows, probabilities: Floats, users: Rows, uniforms: Floats) -> Rows:
    """Draws one item per uniform number from the pool of the user of its row, [R, S]."""
    drawn = np.full(uniforms.shape, -1, np.int32)
    for r in range(uniforms.shape[0]):
        user = users[r]
        for s in range(uniforms.shape[1]):
            left = uniforms[r, s]
            for p in range(pool_items.shape[1]):
                left -= probabilities[user, p]
                if left < 0:
                    drawn[r, s] = pool_items[user, p]
                    break
    return drawn


@numba.njit(cache=True)
def pool_propensities(pool_items: Rows, probabilities: Floats, users: Rows, items: Rows) -> Floats:
    """Probability of each item in the pool of its user, [N]; 0 outside."""
    found = np.zeros(len(users), np.float32)
    for n in range(len(users)):
        for p in range(pool_items.shape[1]):
            if pool_items[users[n], p] == items[n]:
                found[n] = probabilities[users[n], p]
                break
    return found


class PairSet:
    """Set of (user row, item row) pairs: an open-addressing hash table of int64 keys."""

    def __init__(self) -> None:
        self._table: Rows = np.full(1 << 12, -1, np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, users: Rows, items: Rows) -> None:
        """Adds pairs; those already in are left alone."""
        keys = pair_keys(users, items)
        if 2 * (self._size + len(keys)) > len(self._table):
            self._grow(self._size + len(keys))
        self._size += _insert(self._table, keys)

    def contains(self, users: Rows, items: Rows) -> Flags:
        """Whether each pair is in the set; arrays of one shape."""
        keys = pair_keys(users, items)
        found: Flags = _contains(self._table, keys.ravel()).reshape(keys.shape)
        return found

    def _grow(self, size: int) -> None:
        keys = self._table[self._table >= 0]
        self._table = np.full(1 << int(4 * size - 1).bit_length(), -1, np.int64)
        _insert(self._table, keys)


def pair_keys(users: Rows, items: Rows) -> Rows:
    """Packs pairs of rows into int64 keys."""
    return (users.astype(np.int64) << 32) | items


@numba.njit(cache=True)
def _slot(table: Rows, key: np.int64) -> np.int64:
    """Where a key is, or would be put, by linear probing."""
    mask = len(table) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(32)) & mask
    while table[slot] != -1 and table[slot] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _insert(table: Rows, keys: Rows) -> int:
    added = 0
    for key in keys:
        slot = _slot(table, key)
        added += table[slot] == -1
        table[slot] = key
    return added


@numba.njit(cache=True)
def _contains(table: Rows, keys: Rows) -> Flags:
    found = np.empty(len(keys), np.bool_)
    for n in range(len(keys)):
        found[n] = table[_slot(table, keys[n])] == keys[n]
    return found
