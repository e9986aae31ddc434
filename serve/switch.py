"""The bundle that serves: follows `bundles/CURRENT`, or a version that is asked for by name.

It switches whole and refuses what is broken. What fails for a reason that may pass, such as want of
memory, is refused too, and tried again.

A new bundle is opened, checked and tried in a background thread while the old one serves; then one
assignment makes it the one that new requests take. Requests under way end on the old one.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract import storage
from data.contract.artifact import MANIFEST, POINTER, renew
from data.contract.passwords import concealed
from data.contract.settings import UserError
from data.contract.storage import StorageError
from serve.bundle import KIND, Bundle
from serve.funnel import Funnel
from serve.messages import RecommendRequest
from serve.mirrored_bundles import clear, wanted
from serve.retry import Retry
from serve.stages import Trace

if TYPE_CHECKING:
    from pathlib import Path

    from serve.programs import Floats
    from serve.utility import Utility

log = logging.getLogger(__name__)

TRIED = 50
UNKNOWN = "-1"  # reads as an id of either type

Pointed = tuple[str, int]
NOWHERE: Pointed = ("", 0)

Build = Callable[[Bundle], Funnel]


@dataclass(frozen=True, slots=True)
class Refused:
    """A bundle that was pointed to but does not serve."""

    version: str
    reason: str


class Switch:
    """Holds the funnel that serves, once it is open.

    Args:
        root: the root; `<root>/bundles/CURRENT` is followed.
        build: makes a funnel of a bundle.
    """

    def __init__(self, root: Path, build: Build) -> None:
        self._folder = root / KIND
        self._build = build
        self._lock = threading.Lock()
        self._pinned = ""
        self._pointed = NOWHERE
        self._retry = Retry()
        self._loaded = False
        self._funnel: Funnel | None = None
        self.refused: Refused | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a funnel."""
        return self._funnel is not None

    @property
    def funnel(self) -> Funnel:
        """What serves."""
        assert self._funnel is not None, "open it first"
        return self._funnel

    def open(self) -> None:
        """Loads what is pinned; where that cannot serve, and is refused, what the pointer names.

        Raises:
            UserError: there is no bundle that can serve.
            StorageError: the root's storage does not answer.
        """
        with self._lock:
            if self._pinned:
                self._follow()
            if self._funnel is None:
                self._open_current()

    def _open_current(self) -> None:
        try:
            pointed = self._look(self._current())
            self._funnel = self.load(pointed[0])
        except UserError as error:
            if self.refused is None or isinstance(error, StorageError):
                raise
            raise UserError(f"{self.refused.reason}; nor {POINTER}: {error}") from error
        if not self._pinned:
            self._pointed = pointed

    def pin(self, version: str) -> None:
        """Lets `follow` switch to a version and stay there; "" goes back to the pointer."""
        self._pinned = version

    @property
    def is_current(self) -> bool:
        """Whether what serves is what the pointer named when it was last looked at."""
        return self.refused is None and self._pointed[0] == self.funnel.bundle.version

    def follow(self) -> bool:
        """Looks at the pointer and switches if it names another bundle. Gives whether it did.

        Raises:
            StorageError: the root's storage does not answer; what served goes on.
        """
        with self._lock:
            return self._follow()

    def _follow(self) -> bool:
        version = self._pinned
        try:
            version = version or self._current()
            pointed = self._look(version)
        except StorageError:
            raise  # says nothing of the bundle
        except UserError as error:
            self._refuse(version, error)
            self._pointed = NOWHERE  # what it was is tried again once it is back
            return False
        if pointed == self._pointed and not self._retry.is_due:
            return False
        self._pointed = pointed
        return self._switch(version)

    def clear_mirror(self, served: Collection[str]) -> None:
        """Removes from this machine's mirror the bundles that neither this nor others serve.

        Raises:
            StorageError: the root's storage does not answer.
        """
        clear(self._folder, {*served, self._serving, self._pinned})

    def use(self, utility: Utility) -> None:
        """Lets another utility order feeds; a bundle that was refused is tried with it."""
        with self._lock:
            self._funnel = self.funnel.with_utility(utility)
            if self.refused is not None:
                self._pointed = NOWHERE

    def _switch(self, version: str) -> bool:
        before = self._serving
        if version == before:
            self.refused = None
            self._retry.note(settled=True)
            return False
        try:
            funnel = self.load(version)
        except Exception as error:  # whatever is wrong with it, the old one goes on serving
            self._refuse(version, error)
            self._retry.note(settled=not may_pass(error))
            return False
        log.info("bundle %s follows %s", version, before or "nothing")
        self._funnel, self.refused = funnel, None
        self._retry.note(settled=True)
        return True

    @property
    def _serving(self) -> str:
        return "" if self._funnel is None else self._funnel.bundle.version

    def _refuse(self, version: str, error: Exception) -> None:
        reason = concealed(str(error) if isinstance(error, UserError) else repr(error))
        if self.refused != Refused(version, reason):
            log.error("bundle %s is refused: %s", version, reason)
        self.refused = Refused(version, reason)

    def _current(self) -> str:
        """Version that the pointer names, where the root lies. Raises UserError."""
        named = storage.text(self._folder / POINTER)
        if named is None:
            uri = storage.uri_of(self._folder)
            raise UserError(f"no bundle to serve at {uri}; run the pipeline first")
        return named.strip()

    def _look(self, version: str) -> Pointed:
        """Brings a bundle here as it was published last; tells when that was. Raises UserError."""
        folder = self._folder / version
        if not renew(folder):
            raise UserError(f"{storage.uri_of(self._folder)} has no bundle {version}")
        return version, (storage.here(folder) / MANIFEST).stat().st_mtime_ns

    def let_go(self) -> None:
        """Frees what served, or could not, before what was loaded last.

        A ranker on a GPU holds itself, and memory there. Requests under way had a round to end.
        """
        if self._loaded:
            self._loaded = False
            gc.collect()

    def load(self, version: str) -> Funnel:
        """A funnel over a bundle that has been tried. Raises UserError when it cannot serve."""
        self._loaded = True
        wanted(self._folder / version)
        funnel = self._build(Bundle.open(self._folder / version))
        self_test(funnel)
        return funnel


def may_pass(error: Exception) -> bool:
    """Whether the same may succeed later: whatever does not speak of what is in a bundle."""
    return isinstance(error, StorageError) or not isinstance(error, UserError)


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
