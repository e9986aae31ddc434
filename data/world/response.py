"""How people respond: probabilities of actions, durations, and the end of a session.

Shapes: N impressions, A actions in the order of `ACTIONS`, D latent dimensions.
"""

from typing import NamedTuple

import numba
import numpy as np

from data.world.population import Flags, Floats, Items, Rows, Users
from data.world.settings import ACTIONS, POSITIVE_ACTIONS, ActionModel, World

POSITIVE = np.array([action in POSITIVE_ACTIONS for action in ACTIONS])
FORMAT_PACE = np.array([1.0, 2.5, 1.5, 3.0], np.float32)  # durations relative to an image
CONTINUE_LOGIT, CONTINUE_POSITIVE, CONTINUE_HIDE = -1.2, 0.5, -1.0
RETURN_POSITIVE, RETURN_HIDE = 0.1, -0.3


class Exposure(NamedTuple):
    """Impressions: who saw what, in which mood and where.

    Attributes:
        users: User rows, [N].
        intents: Interest that the session is about, [N].
        items: Item rows, [N].
        positions: Slots, 0 on top, [N].
    """

    users: Rows
    intents: Rows
    items: Rows
    positions: Rows


def examination(positions: Rows, decay: float) -> Floats:
    """Probability that a position is looked at, 1 on top: 1 / (1 + decay x position)."""
    return (1.0 / (1.0 + decay * positions)).astype(np.float32)


def sigmoid(logits: Floats) -> Floats:
    """Logistic function."""
    return 1.0 / (1.0 + np.exp(-logits))


def item_logit(action: ActionModel, items: Items) -> Floats:
    """The part of an action's logit that is the same for all users of its language, [I]."""
    logit = action.bias + action.quality * items.quality + action.clickbait * items.clickbait
    return logit.astype(np.float32)


class Affinity(NamedTuple):
    """What binds users to items; arrays of one shape.

    Attributes:
        intent: Cosine of the item with the session's intent.
        interests: Mean cosine with all interests, by weight.
        foreign: Whether the item is not in the user's language.
    """

    intent: Floats
    interests: Floats
    foreign: Flags


def action_probability(action: ActionModel, base: Floats, affinity: Affinity) -> Floats:
    """Probability of an action on an item that is looked at; `base` from `item_logit`."""
    return sigmoid(
        base
        + np.float32(action.intent) * affinity.intent
        + np.float32(action.interests) * affinity.interests
        + np.float32(action.foreign) * affinity.foreign
    )


def affinities(exposure: Exposure, users: Users, items: Items) -> Affinity:
    """Affinities of impressions, [N]."""
    flat = users.interests.reshape(-1, users.interests.shape[2])
    slots = exposure.users * np.int32(users.interests.shape[1]) + exposure.intents
    seen = exposure.items
    return Affinity(
        row_products(flat, slots, items.vector, seen),
        row_products(users.long_term(), exposure.users, items.vector, seen),
        items.language[seen] != users.language[exposure.users],
    )


def action_probabilities(
    world: World, exposure: Exposure, affinity: Affinity, items: Items
) -> Floats:
    """Probability of each action on each impression, [N, A]."""
    probabilities = np.empty((len(exposure.items), len(ACTIONS)), np.float32)
    for a, action in enumerate(world.actions):
        base = item_logit(action, items)[exposure.items]
        probabilities[:, a] = action_probability(action, base, affinity)
    return probabilities * examination(exposure.positions, world.position_decay)[:, None]


def durations(
    world: World, actions: Rows, affinity: Floats, formats: Rows, rng: np.random.Generator
) -> Floats:
    """Log-normal durations in seconds, longer by affinity and format, [N]; 0 for saves, hides."""
    median = np.array([action.median_s for action in world.actions], np.float32)[actions]
    spread = rng.normal(0.0, 0.7, len(actions))
    return (median * FORMAT_PACE[formats] * np.exp(1.2 * affinity + spread)).astype(np.float32)


def continue_probability(positives: Rows, hides: Rows) -> Floats:
    """Probability that a session goes on after a request with so many actions."""
    logits = CONTINUE_LOGIT + CONTINUE_POSITIVE * positives + CONTINUE_HIDE * hides
    return sigmoid(np.minimum(logits, 1.5).astype(np.float32))


def return_rate(activity: float, positives: int, hides: int) -> float:
    """Sessions per day after a session with so many actions."""
    mood = RETURN_POSITIVE * min(positives, 5) + RETURN_HIDE * min(hides, 5)
    return float(activity * np.exp(mood))


@numba.njit(cache=True)
def row_products(left: Floats, left_rows: Rows, right: Floats, right_rows: Rows) -> Floats:
    """Dot products of chosen rows of two matrices, [N]; summed in order, hence reproducible."""
    products = np.empty(len(left_rows), np.float32)
    for n in range(len(left_rows)):
        total = np.float32(0.0)
        for d in range(left.shape[1]):
            total += left[left_rows[n], d] * right[right_rows[n], d]
        products[n] = total
    return products
