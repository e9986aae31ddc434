"""Answers that are no success: every one has `detail`, a list of reasons, and where each is."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from data.contract.settings import UserError
from serve.messages import MOST_REASONS
from serve.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.requests import Request

log = logging.getLogger(__name__)

AGAIN = {"Retry-After": "1"}


class Reason(BaseModel):
    """Why a request is refused."""

    msg: str
    loc: list[str] | None = Field(
        default=None, description="`body`, `path`, `query` or `header`, then what within it"
    )


class Refusal(BaseModel):
    """An answer that is no success."""

    detail: list[Reason]


def refuse(
    status: int, reasons: list[dict[str, Any]], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer that refuses a request."""
    return JSONResponse({"detail": reasons}, status, headers)


def refuse_saying(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that refuses a request whatever is in it."""
    return refuse(status, [{"msg": text}], headers)


def add_handlers(api: FastAPI) -> None:
    """Answers what is raised in a request; what is not named here is a fault, and a 500."""
    api.add_exception_handler(UserError, _misnamed)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(StoreError, _store_failed)


def _misnamed(request: Request, error: Exception) -> JSONResponse:
    where = "path" if request.method == "GET" else "body"
    return refuse(422, [{"loc": [where], "msg": str(error)}])


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Says where and why; the input itself is not sent back, as it may be no valid text."""
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):  # FastAPI reads no other type as JSON
        text = f"must be application/json, got {request.headers.get('content-type', 'none')!r}"
        return refuse(422, [{"loc": ["header", "content-type"], "msg": text}])
    reasons = [{"loc": [str(p) for p in e["loc"]], "msg": e["msg"]} for e in error.errors()]
    return refuse(422, reasons[:MOST_REASONS])


def _http(_: Request, error: Exception) -> JSONResponse:
    """What FastAPI itself refuses: a path, a method, bytes that are no text."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        return refuse(400, [{"loc": ["body"], "msg": error.detail}])
    return refuse_saying(error.status_code, error.detail, error.headers)


def _store_failed(_: Request, error: Exception) -> JSONResponse:
    log.error("the store failed", exc_info=error)
    return refuse_saying(503, "the store does not answer; nothing is acknowledged", AGAIN)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals of a route as its description tells them."""
    return {
        status: {"model": Refusal, "description": _TOLD.get(status, HTTPStatus(status).phrase)}
        for status in sorted({*statuses, 503})
    }


_TOLD = {
    400: "The body cannot be read as JSON.",
    401: "The server has a token, and it was not shown.",
    404: "There is no such item or path.",
    413: "The body has too many bytes.",
    422: "Not of the form that is described here, or it names what the bundle does not have.",
    429: "This client asks too often; `Retry-After` says how long to wait.",
    503: "Too much is in work, or the store does not answer; `Retry-After` says how long to wait.",
}
