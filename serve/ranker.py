"""Calibrated probabilities of each action, for one user and many candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.contract.encode import Arrays, Ints, Mask, encode_history

if TYPE_CHECKING:
    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.programs import Floats
    from serve.users import User

MODEL = "ranker"
NOTHING = np.zeros(0, np.int64)


class Ranker:
    """The exported ranker: `ranker_user` once a request, `ranker_items` over its candidates."""

    def __init__(self, bundle: Bundle, catalogue: Catalogue) -> None:
        self._bundle = bundle
        self._catalogue = catalogue
        self._user_program = bundle.programs["ranker_user"]
        self._items_program = bundle.programs["ranker_items"]
        self._max_length = bundle.max_length(MODEL)
        self._surfaces = bundle.vocabulary.surface_codes
        self._no_context = self._item_inputs(np.zeros(1, np.int64))

    def __call__(self, user: User, rows: Ints, surface: str = "", about: Ints = NOTHING) -> Floats:
        """Probability of each action of the vocabulary for each candidate.

        Args:
            user: the user at the time of the request.
            rows: [N] candidates.
            surface: where they would be shown; one that the log has not is an unknown one.
            about: [1] the item that the request is about, [0] none.

        Returns:
            f32[N, T].
        """
        of_user = self.user_inputs(user, surface, about)
        state = self._user_program(of_user)
        candidates = self._item_inputs(rows) | self._catalogue.record(rows)
        candidates["position"] = np.zeros(len(rows), np.int64)
        outputs = self._items_program({**state, **candidates})
        logits = np.asarray(outputs[self._items_program.outputs[0]], np.float32)
        segments = without_rows(candidates["item_id.rows"], of_user["user_id.rows"])
        return self._bundle.calibrators(logits, segments)

    def user_inputs(self, user: User, surface: str = "", about: Ints = NOTHING) -> Arrays:
        """Named arrays of the user side."""
        history = encode_history(
            user.events.newest(self._max_length), np.array([user.reference_ms])
        )
        items = self._item_inputs(np.asarray(history["history.item"], np.int64))
        context = self._item_inputs(about) if len(about) else self._no_context
        row = np.array([user.row])
        return {
            **history,
            **{f"history.{name}": array for name, array in items.items()},
            **{f"context.{name}": array for name, array in context.items()},
            **self._bundle.users.gather(row),
            **self._bundle.user_record(row),
            "user_id.rows": self._bundle.id_rows(MODEL, "user", row),
            "request.surface": np.array([self._surfaces.get(surface, 0)]),
            "request.has_context": np.full(1, len(about) > 0, np.float32),
        }

    def _item_inputs(self, rows: Ints) -> Arrays:
        return {
            "item_id.rows": self._catalogue.id_rows(MODEL, rows),
            **self._catalogue.features(rows),
        }


def without_rows(items: npt.NDArray[Any], user: npt.NDArray[Any]) -> Mask:
    """Where there was no ID row to go by, bool[N, 2] (`calibration.SEGMENTS`).

    Args:
        items: ID rows of N items, [N, D].
        user: that of the user, [1, D].
    """
    unknown = np.zeros((len(items), 2), bool)
    unknown[:, 0] = ~np.any(items, axis=1)
    unknown[:, 1] = not np.any(user)
    return unknown
