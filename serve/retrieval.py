"""Vectors of users by the exported user tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Arrays, encode_history

if TYPE_CHECKING:
    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.programs import Floats
    from serve.users import User

MODEL = "two_tower"


class UserTower:
    """Reads a user's newest events and gives a vector of the item space."""

    def __init__(self, bundle: Bundle, catalogue: Catalogue) -> None:
        self._bundle = bundle
        self._catalogue = catalogue
        self._program = bundle.programs["user_tower"]
        self._max_length = bundle.max_length(MODEL)

    def __call__(self, user: User) -> Floats:
        """The user's vector, f32[D]."""
        vector: Floats = self._program(self.inputs(user))[self._program.outputs[0]][0]
        return vector

    def inputs(self, user: User) -> Arrays:
        """Named arrays of the program: the encoded history, and rows looked up."""
        history = encode_history(user.events.newest(self._max_length))
        row = np.array([user.row])
        items = np.asarray(history["history.item"], np.int64)
        return {
            **history,
            **self._bundle.users.gather(row),
            "user_id.rows": self._bundle.id_rows(MODEL, "user", row),
            "history.embedding.rows": self._catalogue.embeddings(items),
        }
