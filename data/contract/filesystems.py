"""The file systems of storages, and how long they are waited for.

Any URI that pyarrow or, where it is installed, fsspec understands will do; credentials, region and
endpoint are those of their own environment variables (`AWS_ENDPOINT_URL` and so on), or options of
the URI (`s3://bucket/company?endpoint_override=...`).

By itself an S3 client takes three seconds of silence for a failure, and asks ten times: a slow
storage never answers, and one that hangs holds its caller for minutes. Here it may be silent for
`PATIENT` seconds, three times, and for servers, which look again soon, for those of `BRIEF`.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from data.contract.passwords import concealed
from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBE = "homefeed-probe"


class StorageError(UserError):
    """An object storage that does not do what it is asked."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What an S3 client waits for, three times.

    Attributes:
        connect_timeout: for a connection, s.
        request_timeout: for the next byte, s.
    """

    connect_timeout: float
    request_timeout: float


PATIENT, BRIEF = Timeouts(5.0, 20.0), Timeouts(1.0, 3.0)
_brief = ContextVar("brief", default=False)


@contextlib.contextmanager
def briefly() -> Iterator[None]:
    """Has storages tried for seconds: for who comes again soon, and must not be late."""
    before = _brief.set(True)
    try:
        yield
    finally:
        _brief.reset(before)


def is_brief() -> bool:
    """Whether storages are tried `briefly`."""
    return _brief.get()


def opened(scheme: str, host: str) -> tuple[Any, str]:
    """The file system of a scheme and, with its options, a host; and how places there begin.

    s3://bucket/a is bucket/a there, hdfs://host:8020/a is /a: a place of our own shows which.

    Raises:
        StorageError: there is none.
    """
    return _opened(scheme, host, BRIEF if is_brief() else PATIENT)


@cache
def _opened(scheme: str, host: str, timeouts: Timeouts) -> tuple[Any, str]:
    name, mark, options = host.partition("?")
    uri = f"{scheme}://{name}/{PROBE}{mark}{options}"
    try:
        system, place = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError, NotImplementedError) as error:
        system, place = _of_fsspec(uri, error)
    above = place.rpartition(PROBE)[0]
    # Azure refuses the slash that abfs://account.dfs.core.windows.net/container comes with.
    above = above.lstrip("/") if system.type_name == "abfs" else above
    return _waiting(system, timeouts), above


def _waiting(system: Any, timeouts: Timeouts) -> Any:
    """The same file system, where it is S3's with what no URI can say.

    Small objects are put in one request, not three.
    """
    if system.type_name != "s3":
        return system
    _, (options,) = system.__reduce__()  # all that makes it, as another process is told
    return fs.S3FileSystem(**options | asdict(timeouts) | {"allow_delayed_open": True})


def _of_fsspec(uri: str, error: Exception) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # an optional dependency, and rarely wanted

        system, place = url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(system)), place
    except (ImportError, ValueError, OSError):
        scheme = uri.partition("://")[0]
        said = f"{scheme}:// is no storage that can be reached: {concealed(str(error))}"
        raise StorageError(said) from None
