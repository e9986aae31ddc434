"""Probabilities of each action, for one user and many candidates: the user side runs once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Arrays, Ints, encode_history

if TYPE_CHECKING:
    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.programs import Floats
    from serve.users import User

MODEL = "ranker"


class Ranker:
    """The exported ranker: `ranker_user` once a request, `ranker_items` over its candidates."""

    def __init__(self, bundle: Bundle, catalogue: Catalogue) -> None:
        self._bundle = bundle
        self._catalogue = catalogue
        self._user_program = bundle.programs["ranker_user"]
        self._items_program = bundle.programs["ranker_items"]
        self._max_length = bundle.max_length(MODEL)

    def __call__(self, user: User, rows: Ints) -> Floats:
        """Probability of each action of the vocabulary for each candidate.

        Args:
            user: the user at the time of the request.
            rows: [N] candidates.

        Returns:
            f32[N, T].
        """
        state = self._user_program(self.user_inputs(user))
        candidates = self._item_inputs(rows) | {"position": np.zeros(len(rows), np.int64)}
        outputs = self._items_program({**state, **candidates})
        return sigmoid(np.asarray(outputs[self._items_program.outputs[0]], np.float32))

    def user_inputs(self, user: User) -> Arrays:
        """Named arrays of the user side."""
        history = encode_history(
            user.events.newest(self._max_length), np.array([user.reference_ms])
        )
        items = self._item_inputs(np.asarray(history["history.item"], np.int64))
        row = np.array([user.row])
        return {
            **history,
            **{f"history.{name}": array for name, array in items.items()},
            **self._bundle.users.gather(row),
            "user_id.rows": self._bundle.id_rows(MODEL, "user", row),
        }

    def _item_inputs(self, rows: Ints) -> Arrays:
        return {
            "item_id.rows": self._catalogue.id_rows(MODEL, rows),
            **self._catalogue.features(rows),
        }


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + e^-x) without overflow."""
    probabilities: Floats = 0.5 * (1 + np.tanh(0.5 * logits))
    return probabilities
