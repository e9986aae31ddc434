"""Experiments: which arm a user is in, and what is different there.

Users are dealt by a stable hash of the experiment's name and their id, so that they stay where they
are. An arm may change settings, or serve another bundle: a canary is an arm with a bundle, a shadow
one whose answers are compared with what is served, and thrown away.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from data.contract.settings import Share

if TYPE_CHECKING:
    from serve.store import ExternalId

OUTSIDE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
        share: of the users.
        bundle: version that serves; the current one, if empty.
        settings: of serving that differ, such as `diversity` or `utility`.
        shadow: whether users get what they would get without it, and its answer is compared.
    """

    share: Share
    bundle: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment; users in none of its arms are outside of it.

    Attributes:
        name: written into every logged row; none, if empty.
        arms: by name.
    """

    name: str = ""
    arms: dict[str, Arm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.arms and not self.name:
            raise ValueError("arms need serve.experiment.name=...")
        total = sum(arm.share for arm in self.arms.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the arms of {self.name} have {total:g} of the users together")

    def arm_of(self, user_id: ExternalId) -> str:
        """Name of a user's arm; empty outside of the experiment."""
        if not self.arms:
            return OUTSIDE
        place = place_of(self.name, user_id)
        for name, arm in self.arms.items():
            place -= arm.share
            if place < 0:
                return name
        return OUTSIDE


def place_of(name: str, user_id: ExternalId) -> float:
    """Uniform in [0, 1), the same for ever for an experiment and a user."""
    text = f"{name}:{type(user_id).__name__}:{user_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big") / 2**56
