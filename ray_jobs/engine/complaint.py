"""A UserError's way from a rank to the driver, past Ray Train's wish to try again.

Ray Train's controller imports this module: it imports little.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray.train import UserCallback

from data.contract import storage
from data.contract.artifact import write_atomically
from data.contract.settings import UserError
from data.contract.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Complaint(UserCallback):
    """Ends the run, instead of trying again, when a rank has left a UserError's text."""

    def __init__(self, file: Path) -> None:
        """Takes the file for the text; what an earlier run left is removed."""
        self.file = file
        storage.remove(file)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """On a rank: leaves the text of a UserError on its way out.

        A storage that does not answer may do so later: that is for Ray Train's failure policy.
        """
        try:
            yield
        except StorageError:
            raise
        except UserError as error:
            write_atomically(storage.here(self.file), str(error))
            raise

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """In the controller: an error of its own is not tried again."""
        self.raise_again()

    def raise_again(self) -> None:
        """Raises what a rank has left, if anything."""
        file = storage.here(self.file)
        if storage.fetch(file, fresh=True):
            raise UserError(file.read_text())
