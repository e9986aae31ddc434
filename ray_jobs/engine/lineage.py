"""What each artefact of a root was made from, by manifests alone, and what is needed of all that.

Time and memory grow with the number of manifests, not with what they describe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from data.contract import storage
from data.contract.artifact import POINTER, peek

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

VERSION = re.compile(r"/[0-9a-f]{12}$")  # of `artifact.version_of`; other files are someone's own


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an artefact comes from.

    Attributes:
        kind: its folder under the root.
        version: its folder under that.
        created: when it was published, UTC.
        parents: names of what it was made from.
    """

    kind: str
    version: str
    created: datetime
    parents: tuple[str, ...]

    @property
    def name(self) -> str:
        """How manifests name it."""
        return f"{self.kind}/{self.version}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """All artefacts of a root.

    Attributes:
        origins: by name.
        halves: names of those that have no manifest: half made, or half removed.
    """

    origins: dict[str, Origin]
    halves: frozenset[str] = frozenset()

    @classmethod
    def of(cls, root: Path, kinds: Iterable[str]) -> Lineage:
        """Reads the manifests of some kinds. Raises StorageError."""
        found = {
            f"{kind}/{version}": _origin(root, kind, version)
            for kind in kinds
            for version in storage.names(root / kind) - {POINTER}
        }
        origins = {name: origin for name, origin in found.items() if origin}
        halves = [name for name in found.keys() - origins.keys() if VERSION.search(name)]
        return cls(origins, frozenset(halves))

    def newest(self, kind: str, count: int) -> list[str]:
        """Names of those of a kind that were published last."""
        of_kind = [one for one in self.origins.values() if one.kind == kind]
        of_kind.sort(key=lambda one: (one.created, one.version), reverse=True)
        return [one.name for one in of_kind[:count]]

    def younger(self, than: datetime) -> list[str]:
        """Names of those that were published since."""
        return [one.name for one in self.origins.values() if one.created >= than]

    def made_from(self, start: str, needed: set[str], kinds: Iterable[str]) -> set[str]:
        """Names of some kinds made from one artefact, directly or not, and from what is needed."""
        found: set[str] = set()
        of_kinds = [one for one in self.origins.values() if one.kind in set(kinds)]
        while (
            more := {
                one.name
                for one in of_kinds
                if {start, *found} & {*one.parents} and {*one.parents} <= needed | found
            }
            - found
        ):
            found |= more
        return found

    def with_all_before(self, names: Iterable[str]) -> set[str]:
        """These, and all that they were made from."""
        found: set[str] = set()
        left = set(names)
        while left:
            found |= left
            known = [self.origins[name] for name in left if name in self.origins]
            left = {parent for one in known for parent in one.parents} - found
        return found


def pointed(root: Path, kinds: Iterable[str]) -> set[str]:
    """Names of those that the pointers of some kinds name. Raises StorageError."""
    pointers = {kind: storage.text(root / kind / POINTER) for kind in kinds}
    return {f"{kind}/{text.strip()}" for kind, text in pointers.items() if text}


def _origin(root: Path, kind: str, version: str) -> Origin | None:
    found = peek(root / kind / version)
    if found is None:
        return None
    parents = tuple(f"{p['kind']}/{p['version']}" for p in found.parents)
    return Origin(kind, version, datetime.fromisoformat(found.created), parents)
