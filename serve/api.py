"""HTTP interface over a feed: FastAPI routes, OpenAPI at /docs and /openapi.json."""

import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, HTTPException, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

from serve.access import TOKEN, Access
from serve.description import DescribedApi
from serve.feed import Feed
from serve.limits import Limits
from serve.messages import (
    Actions,
    Events,
    EventsAccepted,
    Items,
    ItemsAccepted,
    RecommendRequest,
    RecommendResponse,
    SimilarItems,
    each_event,
    each_item,
)
from serve.metrics import RequestMetrics
from serve.refusals import add_handlers, answers

Deadline = Annotated[float | None, Header(gt=0, le=60_000)]
NumItems = Annotated[int, Query(ge=1, le=500)]
PLAIN = answers(401, 429)
PATH = answers(401, 404, 422, 429)
BODY = answers(400, 401, 413, 422, 429)


def create_api(feed: Feed) -> FastAPI:
    """The application that serves `feed`."""
    api = DescribedApi(title="homefeed", version="0.1.0", description="Recommendations over HTTP")
    api.add_middleware(Limits, max_concurrent=feed.settings.max_concurrent)
    token = os.environ.get(TOKEN, "")
    api.needs_token = bool(token)
    api.add_middleware(Access, token=token, rate=feed.settings.rate)
    api.add_middleware(RequestMetrics, metrics=feed.metrics)
    _add_recommendations(api, feed)
    _add_page(api, feed)
    _add_posting(api, feed)
    _add_status(api, feed)
    add_handlers(api)
    return api


def _json(model: BaseModel) -> Response:
    """Serialises once; FastAPI would check the answer against its model first."""
    return Response(model.model_dump_json(exclude_none=True), media_type="application/json")


def _add_recommendations(api: FastAPI, feed: Feed) -> None:
    @api.post("/v1/recommend", response_model=RecommendResponse, responses=BODY)
    def recommend(request: RecommendRequest, x_deadline_ms: Deadline = None) -> Response:
        """A feed for a user, known or not; `x-deadline-ms` is the time that the caller has."""
        return _json(feed.recommend(request, x_deadline_ms))

    @api.get("/v1/items/{item_id:path}/similar", response_model=SimilarItems, responses=PATH)
    def similar(item_id: str, num_items: NumItems = 10) -> Response:
        """Items near an item."""
        found = feed.similar(item_id, num_items)
        if found is None:
            raise HTTPException(404, f"item {item_id!r} is unknown")
        return _json(found)


def _add_page(api: FastAPI, feed: Feed) -> None:
    page = (Path(__file__).parent / "page.html").read_text()

    @api.get("/", include_in_schema=False)
    def index() -> Response:
        """A page to look at feeds with."""
        return Response(page, media_type="text/html; charset=utf-8")

    @api.get("/v1/users/{user_id:path}/actions", response_model=Actions, responses=PATH)
    def actions(user_id: str, limit: NumItems = 20) -> Response:
        """What a user did, newest first; nothing of a user who is unknown."""
        return _json(feed.actions(user_id, limit))


def _add_posting(api: FastAPI, feed: Feed) -> None:
    @api.post("/v1/events", response_model=EventsAccepted, responses=BODY)
    def events(body: Annotated[Events, Body()]) -> Response:
        """Takes one event, a list, or `{"events": [...]}`; all or none are on disk after it."""
        return _json(feed.post_events(each_event(body)))

    @api.post("/v1/items", response_model=ItemsAccepted, responses=BODY)
    def items(body: Annotated[Items, Body()]) -> Response:
        """Takes one item, a list, or `{"items": [...]}`; one posted again is replaced."""
        return _json(feed.post_items(each_item(body)))


def _add_status(api: FastAPI, feed: Feed) -> None:
    # These two need no thread, of which a busy server has none to spare.
    @api.get("/healthz", responses=answers())
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @api.get("/readyz", responses=PLAIN)
    async def readyz() -> Response:
        """A bundle serves; `refused` is a newer one that cannot, `degraded` what else is amiss."""
        found = feed.readiness()
        return JSONResponse(found, 200 if found["ready"] else 503)

    @api.get("/v1/models", responses=PLAIN)
    def models() -> dict[str, Any]:
        """Versions that serve and what they were made from."""
        return feed.models()

    @api.get("/metrics", response_class=PlainTextResponse, responses=PLAIN)
    def metrics() -> Response:
        """Prometheus metrics."""
        return Response(feed.exposition(), media_type="text/plain; version=0.0.4")
