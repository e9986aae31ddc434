"""Calibrated probabilities of each action, for one user and many candidates."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Arrays, Ints, Mask, encode_history
from serve.programs import ITEM_SIDE, USER_SIDE
from serve.together import Together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.bundle import Bundle
    from serve.catalogue import Catalogue
    from serve.programs import Floats
    from serve.ranked import Ranked
    from serve.users import User

MODEL = "ranker"
SHARED = 128  # candidates, of which fewer are not worth another thread
NOTHING, NO_ITEM = np.zeros(0, np.int64), np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class Reader:
    """A user as the ranker has read them, before there are candidates.

    Attributes:
        state: what `ranker_user` gives.
        has_row: whether they have an ID row.
    """

    state: Arrays
    has_row: bool


class Ranker:
    """The exported ranker: `ranker_user` once a request, `ranker_items` over its candidates.

    Args:
        bundle: with the programs.
        catalogue: its items.
        threads: that rank the candidates of a request that is alone; one where several are ranked
            together.
        together: requests whose candidates are ranked in one run, where that costs less: on a GPU.
            Arithmetic in 8 bits has one scale a run, so there each is ranked alone, and in one run.
    """

    def __init__(
        self, bundle: Bundle, catalogue: Catalogue, threads: int = 1, together: int = 1
    ) -> None:
        self._bundle = bundle
        self._catalogue = catalogue
        self._user_program = bundle.programs[USER_SIDE]
        self._items_program = bundle.programs[ITEM_SIDE]
        self._max_length = bundle.max_length(MODEL)
        self._surfaces = bundle.vocabulary.surface_codes
        full = bundle.details.get("ranker_arithmetic") != "int8"
        self._threads, self._alone = threads if full else 1, threading.Lock()
        self._helpers = ThreadPoolExecutor(threads - 1, "ranker") if self._threads > 1 else None
        self._together = Together(self._ranked, together) if together > 1 and full else None

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
        return self.rank(self.read(user, surface, about), rows)

    def read(self, user: User, surface: str = "", about: Ints = NOTHING) -> Reader:
        """The half that needs no candidates; arguments as of a call."""
        inputs = self.user_inputs(user, surface, about)
        return Reader(self._user_program(inputs), bool(inputs["user_id.rows"].any()))

    def rank(self, reader: Reader, rows: Ints, patience_s: float | None = None) -> Floats:
        """The half that does: f32[N, T] of candidates [N].

        Many are ranked by all threads while nobody else is ranking: who asks alone finds cores at
        rest, and under load more threads cost more than they bring.

        Raises:
            LateError: others were ranked for longer than `patience_s`.
        """
        if self._together is not None:
            return self._together((reader, rows), patience_s)
        if self._helpers is None or len(rows) < SHARED or not self._alone.acquire(blocking=False):
            return self._ranked([(reader, rows)])[0]
        try:
            own, *others = np.array_split(rows, self._threads)
            asked = [self._helpers.submit(self._ranked, [(reader, part)]) for part in others]
            parts = [self._ranked([(reader, own)]), *(one.result() for one in asked)]
            return np.concatenate([part[0] for part in parts])
        finally:
            self._alone.release()

    def rehearse(self, reader: Reader, rows: Ints) -> Floats:
        """Ranks as many requests in one run as there may be; f32[R, N, T]."""
        most = 1 if self._together is None else self._together.most
        return np.stack(self._ranked([(reader, rows)] * most))

    def _ranked(self, asked: Sequence[tuple[Reader, Ints]]) -> list[Floats]:
        """Of each of R requests, with candidates [N] of its own, f32[N, T]; in one run."""
        rows = rectangle([rows for _, rows in asked])
        items = self._catalogue.ranked(rows.ravel())
        states = joined([reader.state for reader, _ in asked])
        outputs = self._items_program({**states, **self.item_inputs(rows, items)})
        logits = np.asarray(outputs[self._items_program.outputs[0]], np.float32)
        known = items.known.reshape(rows.shape)
        return [
            self._bundle.calibrators(
                logits[at, : len(own)], without_rows(known[at, : len(own)], reader.has_row)
            )
            for at, (reader, own) in enumerate(asked)
        ]

    def item_inputs(self, rows: Ints, items: Ranked) -> Arrays:
        """Named arrays of the item side: of candidates [R, C], and these R C as looked up."""
        flat = items.inputs("candidate.") | self._catalogue.record(rows.ravel())
        flat["position"] = np.zeros(rows.size, np.int64)
        return {name: one.reshape(*rows.shape, *one.shape[1:]) for name, one in flat.items()}

    def user_inputs(self, user: User, surface: str = "", about: Ints = NOTHING) -> Arrays:
        """Named arrays of the user side."""
        history = encode_history(
            user.events.newest(self._max_length), np.array([user.reference_ms])
        )
        context, row = about if len(about) else NO_ITEM, np.array([user.row])
        past = np.asarray(history["history.item"], np.int64)
        return {
            **history,
            **self._catalogue.ranked(past).inputs("history."),
            **self._catalogue.ranked(context).inputs("context."),
            **self._bundle.users.gather(row),
            **self._bundle.user_record(row),
            "user_id.rows": self._bundle.id_rows(MODEL, "user", row),
            "request.surface": np.array([self._surfaces.get(surface, 0)]),
            "request.has_context": np.full(1, len(about) > 0, np.float32),
        }


def rectangle(parts: Sequence[Ints]) -> Ints:
    """Rows of R requests, [N] each, filled up with the missing one, 0: [R, C]."""
    if len(parts) == 1:
        return parts[0][None]
    filled = np.zeros((len(parts), max(map(len, parts))), np.int64)
    for at, part in enumerate(parts):
        filled[at, : len(part)] = part
    return filled


def joined(states: Sequence[Arrays]) -> Arrays:
    """States of R users, [1, ...] each, as one: [R, ...]."""
    if len(states) == 1:
        return states[0]
    return {name: np.concatenate([state[name] for state in states]) for name in states[0]}


def without_rows(items: Mask, user: bool) -> Mask:
    """Where there was no ID row to go by, bool[N, 2] (`calibration.SEGMENTS`).

    Args:
        items: whether there was that of each of N items, [N].
        user: whether there was that of the user.
    """
    unknown = np.zeros((len(items), 2), bool)
    unknown[:, 0] = ~items
    unknown[:, 1] = not user
    return unknown
