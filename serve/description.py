"""The OpenAPI description: FastAPI's own, with exact bounds of integers and with the token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from serve.access import OPEN, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
BEARER = {"type": "http", "scheme": "bearer", "description": f"{TOKEN} of the server"}


class DescribedApi(FastAPI):
    """An application that says in /openapi.json what it does.

    Attributes:
        needs_token: whether clients must show one.
    """

    needs_token = False

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for part in _objects(document):
                _make_exact(part)
                _make_textual(part)
            if self.needs_token:
                _secure(document)
        return self.openapi_schema or {}


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, list):
        for value in tree:
            yield from _objects(value)
    elif isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _objects(value)


def _make_exact(part: dict[str, Any]) -> None:
    """FastAPI writes bounds as floats, and rounded to their digits 2^63 is another number."""
    if part.get("type") == "integer":
        part.update({key: int(part[key]) for key in BOUNDS if key in part})


def _make_textual(part: dict[str, Any]) -> None:
    """A header or a query may be absent, but none is null."""
    if "in" in part and "anyOf" in part.get("schema", {}):
        (schema,) = (one for one in part["schema"].pop("anyOf") if one != {"type": "null"})
        part["schema"] |= schema


def _secure(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"token": BEARER}
    for path, methods in document["paths"].items():
        for operation in methods.values() if path not in OPEN else ():
            operation["security"] = [{"token": []}]
