"""What is logged of failures that repeat."""

import logging
from collections.abc import Iterator

import pytest

from serve.tracebacks import PAUSE_S, Tracebacks


class Log:
    """A logger, and the time by which its filter counts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.logger = logging.getLogger("tests.of.tracebacks")
        self.logger.filters = [Tracebacks(lambda: self.now)]

    def fail(self, error: Exception, user: int = 3) -> None:
        try:
            raise error
        except type(error):
            self.logger.exception("user %d failed", user)

    def fail_elsewhere(self) -> None:
        try:
            int("elsewhere")
        except ValueError:
            self.logger.exception("that failed too")


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.logger.filters = []


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool]]:
    found = [(record.getMessage(), bool(record.exc_info)) for record in caplog.records]
    caplog.clear()
    return found


def test_a_failure_has_one_traceback_and_then_a_line_a_minute(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    for user in range(4):
        log.fail(ValueError("bad"), user)
    assert told(caplog) == [("user 0 failed", True)]
    log.now = PAUSE_S
    log.fail(ValueError("bad"), 4)
    log.fail(ValueError("bad"), 5)
    assert told(caplog) == [("user 4 failed: ValueError('bad'), 4 times more", False)]
    log.now = 2 * PAUSE_S
    log.fail(ValueError("worse"), 6)
    assert told(caplog) == [("user 6 failed: ValueError('worse'), 2 times more", False)]


def test_failures_of_another_kind_or_place_have_tracebacks_of_their_own(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.fail(ValueError("bad"))
    log.fail(KeyError("bad"))
    log.fail_elsewhere()
    assert [with_traceback for _, with_traceback in told(caplog)] == [True] * 3


def test_what_is_no_failure_is_told_each_time(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        log.logger.warning("note this")
    assert told(caplog) == [("note this", False)] * 3


def test_no_password_is_told_of_a_failure_that_repeats(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    for log.now in (0.0, PAUSE_S):
        log.fail(ValueError("redis://:hunter2@host:6379/0"))
    assert "hunter2" not in told(caplog)[1][0]
