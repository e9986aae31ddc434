"""Vectors of users by the exported user tower."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Arrays, Ints, encode_history
from serve.bulkhead import Bulkhead
from serve.candidates import shares_of_list
from serve.programs import Floats

if TYPE_CHECKING:
    from concurrent.futures import Future

    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.users import User

MODEL = "two_tower"
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a user tower says of a user.

    Attributes:
        vector: of all that they did, [D].
        lists: that one and those of their interests, if the tower knows any, [S, D].
        shares: of each in a list of candidates, [S]; 0 where there are fewer interests.
        conditioned: under each condition asked for, [C, D]; the first vector where the tower has
            not learnt from conditions.
    """

    vector: Floats
    lists: Floats
    shares: Floats
    conditioned: Floats


class UserTower:
    """Reads a user's newest events and gives a vector of the item space.

    Args:
        bundle: with the program.
        catalogue: its items.
        threads: in which it runs for those who do not wait for as long as it takes.
        waiting: of them, calls that may wait for a thread.
    """

    def __init__(
        self, bundle: Bundle, catalogue: Catalogue, threads: int = 1, waiting: int = 0
    ) -> None:
        self._bulkhead = Bulkhead("user tower", threads, waiting)
        self._bundle = bundle
        self._catalogue = catalogue
        self._program = bundle.programs["user_tower"]
        self._max_length = bundle.max_length(MODEL)

    def __call__(self, user: User, conditions: Ints = NONE) -> Answers:
        """What the tower says of a user.

        Args:
            user: at the time of the request.
            conditions: hashes of interests that the request names, [C].
        """
        asked = {"condition.interest": conditions, "condition.user": np.zeros_like(conditions)}
        found = self._program(self.inputs(user) | asked)
        vector = np.asarray(found[self._program.outputs[0]][0], np.float32)
        lists, shares = vector[None], np.ones(1, np.float32)
        if "interests" in found:
            lists = np.concatenate([lists, found["interests"][0]])
            shares = shares_of_list(np.asarray(found["interest_shares"], np.float32))[0]
        every = np.broadcast_to(vector, (len(conditions), len(vector)))
        return Answers(vector, lists, shares, np.asarray(found.get("conditioned", every)))

    def start(self, user: User, conditions: Ints) -> Future[Answers]:
        """The same to come, for who may not wait for it. Raises LateError where nothing will."""
        return self._bulkhead.start(partial(self, user, conditions))

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
