"""Addresses as they may be shown: in errors, logs, answers and summaries."""

from __future__ import annotations

import re

WITH_PASSWORD = re.compile(r"""(/[^/\s:@?"']*):[^/\s?"']*@""")  # of a URI, or of a mirror's path
SECRET_OPTION = re.compile(
    r"""([?&][^=&\s"']*(?:secret|password|token|signature)[^=&\s"']*=)[^&/\s"']+"""
)


def concealed(text: str) -> str:
    """A text without the passwords that addresses in it carry.

    Users stay: before `@host`, Azure names a container.
    """
    found = WITH_PASSWORD.sub(lambda m: m[1] if m[1] == "/" else f"{m[1]}@", text)
    return SECRET_OPTION.sub(r"\1...", found)
