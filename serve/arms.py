"""The funnels of an experiment's arms, beside the one that serves everyone else."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from data.contract.settings import UserError, build, merge, nest, to_tree
from serve.experiments import OUTSIDE
from serve.retry import Retry
from serve.stages import Trace
from serve.utility import Utility

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from serve.experiments import Arm
    from serve.funnel import Funnel, Slate
    from serve.messages import RecommendRequest
    from serve.metrics import Metrics
    from serve.query import Query
    from serve.settings import ServeSettings
    from serve.store import ExternalId, Store

log = logging.getLogger(__name__)

MOST_SHADOWS = 8
# Settings that a funnel reads for each request; the others belong to the replica and all its arms.
OF_ARMS = (
    *("candidates", "shares", "sources", "pixie", "deadlines_ms", "rules", "match_user"),
    *("hidden_creator_after", "prerank", "utility", "max_per_creator", "spacing", "diversity"),
    *("least_share", "explore"),
)


class Arms:
    """Follows the funnel that serves: each arm is that funnel with something changed.

    Args:
        settings: of serving, with the experiment.
        load: opens a funnel over another bundle.
        metrics: count what shadows do.
    """

    def __init__(
        self, settings: ServeSettings, load: Callable[[str], Funnel], metrics: Metrics
    ) -> None:
        self._settings = settings
        self._experiment = settings.experiment
        self._load = load
        self._metrics = metrics
        self._canaries: dict[str, Funnel] = {}
        self._main: Funnel | None = None
        self._funnels: dict[str, Funnel] = {}
        self.refused: dict[str, str] = {}
        self._retry = Retry()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._places = threading.BoundedSemaphore(MOST_SHADOWS)

    def close(self) -> None:
        """Ends the shadows."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def follow(self, main: Funnel) -> None:
        """Makes the arms anew when another funnel serves.

        One that cannot serve is left out, and tried again after a while.
        """
        if main is not self._main:
            self._make(main, {})
        elif self._retry.is_due:
            self._make(main, self._funnels)

    def _make(self, main: Funnel, made: Mapping[str, Funnel]) -> None:
        """Makes the arms that are not made yet."""
        found, refused = dict(made), {}
        for name in self._experiment.arms.keys() - made.keys():
            try:
                found[name] = self._made(self._experiment.arms[name], main)
            except Exception as error:
                refused[name] = self._refuse(name, error)
        self._main, self._funnels, self.refused = main, found, refused
        self._retry.note(settled=not refused)

    def _refuse(self, name: str, error: Exception) -> str:
        reason = str(error) if isinstance(error, UserError) else repr(error)
        if self.refused.get(name) != reason:
            log.error("arm %s cannot serve; its users get what all get", name, exc_info=error)
        return reason

    def _made(self, arm: Arm, main: Funnel) -> Funnel:
        funnel = main
        if arm.bundle and arm.bundle != main.bundle.version:
            if arm.bundle not in self._canaries:
                self._canaries[arm.bundle] = self._load(arm.bundle)
            canary = self._canaries[arm.bundle]
            utility = Utility.of(main.utility.settings, canary.bundle.vocabulary)
            funnel = canary.with_utility(utility)
        if not arm.settings:
            return funnel
        in_force = replace(self._settings, utility=funnel.utility.settings)
        return funnel.with_settings(changed(in_force, arm.settings))

    @property
    def bundles(self) -> set[str]:
        """Versions that arms serve beside the one that serves everyone else."""
        return {arm.bundle for arm in self._experiment.arms.values() if arm.bundle}

    def take_posted(self, store: Store) -> None:
        """Takes posted items into the bundles of canaries."""
        for canary in list(self._canaries.values()):  # another thread may be opening one
            canary.catalogue.take_posted(store)

    def of(self, user_id: ExternalId, main: Funnel) -> tuple[str, Funnel]:
        """The arm that a user is in, and what serves them."""
        name = self._experiment.arm_of(user_id)
        funnel = self._funnels.get(name)
        if funnel is None:
            return OUTSIDE, main
        return name, main if self._experiment.arms[name].shadow else funnel

    def shadow(
        self, name: str, request: RecommendRequest, query: Query | None, slate: Slate, main: Funnel
    ) -> None:
        """Lets a shadow answer too, later, where the user is in one; its answer goes nowhere.

        What was shown lately is what had been when it was asked.
        """
        if name == OUTSIDE or not self._experiment.arms[name].shadow:
            return
        if not self._places.acquire(blocking=False):
            self._metrics.shadows.labels(name, "shed").inc()
            return
        served = main.catalogue.external(slate.rows)
        if query is not None:
            named = query.named[main.catalogue.is_known(query.named)]
            request = request.model_copy(update={"exclude": main.catalogue.external(named)})
        future = self._pool.submit(self._compare, name, request, served)
        future.add_done_callback(lambda _: self._places.release())

    def _compare(self, name: str, request: RecommendRequest, served: list[ExternalId]) -> None:
        started = time.perf_counter()
        try:
            funnel, trace = self._funnels[name], Trace()
            slate = funnel.slate(funnel.query(request, trace), request.num_items, trace)
        except Exception:
            log.exception("shadow %s failed", name)
            self._metrics.shadows.labels(name, "failed").inc()
            return
        same = len(set(served) & set(funnel.catalogue.external(slate.rows)))
        self._metrics.shadows.labels(name, "compared").inc()
        self._metrics.shadow_overlap.labels(name).observe(same / max(len(served), 1))
        self._metrics.shadow_seconds.labels(name).observe(time.perf_counter() - started)

    def breakers(self, main: Funnel) -> dict[str, bool]:
        """Which breakers of canaries are open; other arms share those of `main`."""
        return {
            f"{arm}/{name}": is_open
            for arm, funnel in self._funnels.items()
            if funnel.breakers is not main.breakers
            for name, is_open in funnel.breakers.states.items()
        }

    def describe(self) -> dict[str, Any]:
        """The experiment, and which arms cannot serve and why."""
        return {"name": self._experiment.name, "refused": self.refused} | {
            "arms": {name: to_tree(arm) for name, arm in self._experiment.arms.items()}
        }


def changed(settings: ServeSettings, words: Mapping[str, Any]) -> ServeSettings:
    """Settings with some names, dotted or nested, replaced.

    Raises:
        UserError: a name that there is not, or that is the same for all arms.
    """
    tree = to_tree(settings) | {"experiment": {}}
    for key, value in words.items():
        name = key.partition(".")[0]
        if name in tree and name not in OF_ARMS:
            raise UserError(
                f"{name} is the same for all arms; they may change {', '.join(OF_ARMS)}"
            )
        tree = merge(tree, nest(key, value))
    return build(type(settings), tree)
