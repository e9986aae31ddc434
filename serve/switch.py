"""The bundle that serves: follows `bundles/CURRENT`, or a version that is asked for by name.

It switches whole and refuses what is broken.

A new bundle is opened, checked and tried in a background thread while the old one serves; then one
assignment makes it the one that new requests take. Requests under way end on the old one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract import storage
from data.contract.artifact import MANIFEST, POINTER, is_whole
from data.contract.settings import UserError
from serve.bundle import KIND, Bundle
from serve.funnel import Funnel
from serve.messages import RecommendRequest
from serve.stages import Trace

if TYPE_CHECKING:
    from pathlib import Path

    from serve.programs import Floats
    from serve.utility import Utility

log = logging.getLogger(__name__)

TRIED = 50
UNKNOWN = "-1"  # reads as an id of either type

NOWHERE = ("", 0)

Build = Callable[[Bundle], Funnel]


@dataclass(frozen=True, slots=True)
class Refused:
    """A bundle that was pointed to but does not serve."""

    version: str
    reason: str


class Switch:
    """Holds the funnel that serves.

    Args:
        root: the root; `<root>/bundles/CURRENT` is followed.
        build: makes a funnel of a bundle.

    Raises:
        UserError: there is no bundle, or it is broken and there is no other to serve.
    """

    def __init__(self, root: Path, build: Build) -> None:
        self._folder = root / KIND
        self._build = build
        self._lock = threading.Lock()
        self._pinned = ""
        self._pointed = self._pointer()
        self.funnel = self.load(self._pointed[0])
        self.refused: Refused | None = None

    def pin(self, version: str) -> None:
        """Lets `follow` switch to a version and stay there; "" goes back to the pointer."""
        self._pinned = version

    @property
    def is_current(self) -> bool:
        """Whether what serves is what the pointer named when it was last looked at."""
        return self.refused is None and self._pointed[0] == self.funnel.bundle.version

    def follow(self) -> bool:
        """Looks at the pointer and switches if it names another bundle. Gives whether it did."""
        with self._lock:
            try:
                pointed = self._pointer()
            except UserError as error:
                self._refuse(self._pinned, error)
                self._pointed = NOWHERE  # what it was is tried again once it is back
                return False
            if pointed == self._pointed:
                return False
            self._pointed = pointed
            return self._switch(pointed[0])

    def use(self, utility: Utility) -> None:
        """Lets another utility order feeds; a bundle that was refused is tried with it."""
        with self._lock:
            self.funnel = self.funnel.with_utility(utility)
            if self.refused is not None:
                self._pointed = NOWHERE

    def _switch(self, version: str) -> bool:
        if version == self.funnel.bundle.version:
            self.refused = None
            return False
        try:
            funnel = self.load(version)
        except Exception as error:  # whatever is wrong with it, the old one goes on serving
            self._refuse(version, error)
            return False
        log.info("bundle %s follows %s", version, self.funnel.bundle.version)
        self.funnel, self.refused = funnel, None
        return True

    def _refuse(self, version: str, error: Exception) -> None:
        reason = str(error) if isinstance(error, UserError) else repr(error)
        if self.refused != Refused(version, reason):
            log.error("bundle %s is refused: %s", version, reason)
        self.refused = Refused(version, reason)

    def _pointer(self) -> tuple[str, int]:
        """Version that is pointed to, and when it was published. Raises UserError."""
        version = self._pinned
        try:
            storage.fetch(self._folder / POINTER, fresh=True)
            version = version or (self._folder / POINTER).read_text().strip()
            is_whole(self._folder / version)  # brings it here
            return version, (self._folder / version / MANIFEST).stat().st_mtime_ns
        except OSError:
            if self._pinned:
                raise UserError(f"{self._folder} has no bundle {version}") from None
            raise UserError(
                f"no bundle to serve at {self._folder}; run the pipeline first"
            ) from None

    def load(self, version: str) -> Funnel:
        """A funnel over a bundle that has been tried. Raises UserError when it cannot serve."""
        funnel = self._build(Bundle.open(self._folder / version))
        self_test(funnel)
        return funnel


def self_test(funnel: Funnel) -> None:
    """Runs every program, for the user with the longest history and for an unknown one.

    Raises:
        UserError: there is nothing to serve, or a score is no number.
    """
    bundle = funnel.bundle
    if not len(bundle.live_items):
        raise UserError(f"{bundle.artifact.manifest.name} has no item to recommend; index again")
    for user_id in (*_some_user(bundle), UNKNOWN):
        query = funnel.query(RecommendRequest(user_id=user_id), Trace())
        found = [source(query, TRIED) for source in funnel.sources if source.applies(query)]
        _check_finite(bundle, [one.scores for one in found])
        if funnel.ranker is not None:
            rows = np.asarray(bundle.live_items[:TRIED])
            reader = funnel.ranker.read(query.user, query.surface, query.about)
            _check_finite(bundle, [funnel.ranker.rehearse(reader, rows)])


def _check_finite(bundle: Bundle, scores: list[Floats]) -> None:
    if not all(np.isfinite(array).all() for array in scores):
        name = bundle.artifact.manifest.name
        raise UserError(f"{name} gives scores that are no numbers; train again, then export")


def _some_user(bundle: Bundle) -> list[int | str]:
    """The user with the longest history, if any."""
    lengths = np.diff(bundle.histories.offsets)[bundle.user_ids.first_row :]
    if not len(lengths):
        return []
    row = bundle.user_ids.first_row + int(lengths.argmax())
    ids: list[int | str] = bundle.user_ids.external(np.array([row])).to_pylist()
    return ids
