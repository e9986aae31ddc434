import errno
import os

import pytest

from ray_jobs.engine.disk import refusal

NO_ROOM = os.strerror(errno.ENOSPC)


class ForeignError(Exception):
    """Keeps the words of an OSError."""


def caught(*errors: Exception) -> BaseException:
    """The last of some exceptions, each raised while the one before was handled."""
    last: BaseException | None = None
    for error in errors:
        try:
            try:
                if last is not None:
                    raise last
            finally:
                raise error
        except Exception as found:
            last = found
    assert last is not None
    return last


@pytest.mark.parametrize(
    "errors",
    [
        [OSError(errno.ENOSPC, NO_ROOM)],
        [OSError("1024 requested and 512 written")],
        [RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")],
        [OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))],
        [ForeignError(f"Error while serializing: I/O error: {NO_ROOM} (os error 28)")],
        [OSError(errno.ENOSPC, NO_ROOM), ForeignError("rank 0 failed")],
        [OSError(errno.ENOSPC, NO_ROOM), ValueError("while cleaning up"), KeyError("and again")],
    ],
)
def test_a_disk_without_room_is_told_of(errors: list[Exception]) -> None:
    said = refusal(caught(*errors))
    assert said is not None
    assert "run the same command again" in said


def test_the_file_is_named_where_it_is_known() -> None:
    said = refusal(OSError(errno.EROFS, os.strerror(errno.EROFS), "/mnt/root/world"))
    assert said is not None
    assert said.startswith("/mnt/root/world: Read-only file system; root= must")
    assert "source.* what may be read" in said


def test_what_failed_on_another_process_counts() -> None:
    error = ForeignError("task failed")
    error.cause = OSError(errno.ENOSPC, NO_ROOM)  # type: ignore[attr-defined]
    assert refusal(error) is not None


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError(errno.ECONNREFUSED, "refused"), KeyError("space")]
)
def test_other_errors_are_not_taken_for_one(error: Exception) -> None:
    assert refusal(error) is None


def test_what_was_forbidden_and_got_around_is_not_what_ended_it() -> None:
    no_links = OSError(errno.EPERM, os.strerror(errno.EPERM), "item-00000.arrow")
    assert refusal(no_links) is not None
    assert refusal(caught(no_links, ValueError("a bug"))) is None
