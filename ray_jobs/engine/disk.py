"""What an exception says of a disk that has refused to be written, whichever library raised it."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
MEND = "make room below root=, then run the same command again: what is finished is kept"
ALLOW = "root= must name a folder that may be written, source.* what may be read"
# What numpy and torch say of a write that the disk has ended.
CUT_SHORT = re.compile(
    r"\d+ requested and \d+ written|unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing"
)


def refusal(error: BaseException) -> str | None:
    """What there is to mend, None if it is not about a disk that refuses.

    Args:
        error: as caught; a full disk may have led to it. Of an OSError checkpoints, safetensors and
            faiss keep the words alone, and Ray what failed on another process. What was forbidden
            on the way may have been tried in vain and got around: that alone counts which ended it.
    """
    if isinstance(error, OSError) and error.errno in FORBIDDEN:
        return f"{_place(error)}{error.strerror}; {ALLOW}"
    return next((said for one in _leading_to(error) if (said := _said(one))), None)


def _place(error: BaseException) -> str:
    return f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""


def _said(error: BaseException) -> str | None:
    text = str(error)
    for number in FULL:
        if getattr(error, "errno", None) == number or os.strerror(number) in text:
            return f"{_place(error)}{os.strerror(number)}; {MEND}"
    return f"{os.strerror(errno.ENOSPC)}; {MEND}" if CUT_SHORT.search(text) else None


def _leading_to(error: BaseException) -> Iterator[BaseException]:
    """An exception and those behind it, the last one raised first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            context = None if one.__suppress_context__ else one.__context__
            waiting += [one.__cause__, context, getattr(one, "cause", None)]
