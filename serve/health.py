"""How well a replica serves: what is refused, left alone or failing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from data.contract.passwords import concealed
from serve.replicas import Replicas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from serve.arms import Arms
    from serve.metrics import Metrics
    from serve.settings import ServeSettings
    from serve.switch import Switch
    from serve.utility_file import UtilityFile

log = logging.getLogger(__name__)


class Health:
    """Looks at the parts of a feed.

    Args:
        root: the root.
        settings: of serving.
    """

    def __init__(self, root: Path, settings: ServeSettings) -> None:
        self._settings = settings
        self.replicas = Replicas(root)
        self._troubles: dict[str, str] = {}
        self._breakers: set[str] = set()

    def work(self, pieces: Mapping[str, Callable[[], object]]) -> None:
        """Does pieces of background work; what fails is told and keeps no other from being done."""
        for name, piece in pieces.items():
            try:
                piece()
            except Exception as error:
                if self.went(name, error):
                    log.exception("%s failed; trying again", name)
            else:
                self.went(name)

    def went(self, name: str, error: Exception | None = None) -> bool:
        """Notes how a thing went last; whether it went wrong, and otherwise than before."""
        if error is None:
            self._troubles.pop(name, None)
            return False
        trouble = concealed(repr(error))
        before, self._troubles[name] = self._troubles.get(name), trouble
        return before != trouble

    def note(self, metrics: Metrics, switch: Switch, arms: Arms) -> None:
        """Tells the metrics, and the other replicas, how things stand."""
        funnel = switch.funnel
        metrics.serves(funnel.versions, switch.is_current)
        states = {**funnel.breakers.states, **arms.breakers(funnel)}
        self._breakers |= states.keys()
        for name in self._breakers:
            metrics.breakers.labels(name).set(states.get(name, False))
        refused = None if switch.refused is None else switch.refused.version
        facts = {"versions": funnel.versions, "arms": sorted(arms.bundles), "refused": refused}
        self.replicas.note(facts)

    def count(self, metrics: Metrics) -> None:
        """Counts the replicas by what they serve: reads the notes of all, so when it is asked."""
        metrics.replicas.clear()
        for note in self.replicas.living():
            metrics.replicas.labels(note["versions"]["bundle"]).inc()

    def told(self, switch: Switch, arms: Arms, utility: UtilityFile) -> dict[str, Any]:
        """Open breakers, and of all that is not as it should be the reason."""
        funnel = switch.funnel
        states = {**funnel.breakers.states, **arms.breakers(funnel)}
        opened = sorted(name for name, is_open in states.items() if is_open)
        times, pause_s = self._settings.breaker_failures, self._settings.breaker_seconds
        left = f"failed {times} times in a row; one request in {pause_s:g} s tries again"
        degraded = {**self._troubles, **dict.fromkeys(opened, left)}
        if switch.refused is not None:
            degraded["bundle"] = f"{switch.refused.version} is refused: {switch.refused.reason}"
        if utility.refused is not None:
            degraded["utility"] = utility.refused
        degraded |= {f"arm {name}": reason for name, reason in arms.refused.items()}
        return {"open_breakers": opened, "degraded": degraded}
