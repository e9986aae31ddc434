"""The utility that serves: settings, and `<root>/utility.json`, which overrides them at run time.

The file holds names of `serve.utility` as JSON, nested alike; what it does not name stays as set.
It is read again within `serve.poll_seconds`. One that is broken is refused, and what was in force
stays; one that is gone leaves the settings.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from data.contract import storage
from data.contract.artifact import write_atomically
from data.contract.settings import UserError, build, merge, to_tree
from serve.utility import Utility, UtilitySettings

if TYPE_CHECKING:
    from pathlib import Path

    from data.contract.schema import Vocabulary

log = logging.getLogger(__name__)

NAME = "utility.json"


class UtilityFile:
    """Follows the file of a root.

    Args:
        root: the root; `<root>/utility.json` is followed.
        settings: what the file overrides.
    """

    def __init__(self, root: Path, settings: UtilitySettings) -> None:
        self._path, self._base = root / NAME, settings
        self._content: bytes | str | None = None
        self._refused_over: Vocabulary | None = None
        self._settings = settings
        self.refused: str | None = None

    def of(self, vocabulary: Vocabulary) -> Utility:
        """What is in force, over what a bundle has. Raises UserError for what it has not."""
        return Utility.of(self._settings, vocabulary)

    def follow(self, vocabulary: Vocabulary) -> Utility | None:
        """Looks at the file; gives the new utility if it has changed and can serve.

        What names an action that only the next bundle has is looked at again when that serves.

        Args:
            vocabulary: of the bundle that serves.
        """
        content = _read(self._path)
        if content == self._content and self._refused_over in (None, vocabulary):
            return None
        self._content, self._refused_over = content, None
        try:
            settings = _overridden(self._base, content)
            utility = Utility.of(settings, vocabulary)
        except UserError as error:
            self._refuse(f"{storage.uri_of(self._path)}: {error}")
            self._refused_over = vocabulary
            return None
        log.info("utility %s is in force", utility.version)
        self._settings, self.refused = settings, None
        return utility

    def _refuse(self, reason: str) -> None:
        log.error("the utility stays as it was: %s", reason)
        self.refused = reason

    def describe(self) -> dict[str, Any]:
        """What is in force, and why the file is not, if it is not."""
        return {
            "version": self._settings.version,
            "settings": to_tree(self._settings),
            "refused": self.refused,
        }


def in_force(root: Path, settings: UtilitySettings) -> UtilitySettings:
    """The settings under the file of a root, as a server would take them. Raises UserError."""
    path = root / NAME
    try:
        return _overridden(settings, _read(path))
    except UserError as error:
        raise UserError(f"{storage.uri_of(path)}: {error}") from None


def write(root: Path, settings: UtilitySettings) -> Path:
    """Writes all of the settings as the file of a root, in one atomic step."""
    write_atomically(root / NAME, json.dumps(to_tree(settings), indent=1) + "\n")
    return root / NAME


def _read(path: Path) -> bytes | str | None:
    """The content; None where there is no file, a reason where it cannot be read."""
    try:
        storage.fetch(path, fresh=True)
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _overridden(base: UtilitySettings, content: bytes | str | None) -> UtilitySettings:
    if content is None:
        return base
    if isinstance(content, str):
        raise UserError(content)
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"settings are an object, found {type(tree).__name__}")
    return build(UtilitySettings, merge(to_tree(base), tree))
