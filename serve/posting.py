"""Posted events and items: checked, completed, on disk before they are acknowledged."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from data.contract.settings import UserError
from serve.ids import canonical
from serve.messages import Event, EventsAccepted, Item, ItemsAccepted
from serve.posted_items import check_columns
from serve.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from serve.breaker import Breaker
    from serve.funnel import Funnel
    from serve.store import Document, Store

Given = TypeVar("Given")


def post_events(funnel: Funnel, store: Store, events: Sequence[Event]) -> EventsAccepted:
    """Appends events; all or none.

    Raises:
        UserError: names the first that does not fit.
        StoreError: the store fails, or is left alone for a while.
    """
    now_ms = funnel.clock.now_ms()
    known = frozenset(funnel.bundle.vocabulary.actions)
    for at, event in enumerate(events):
        if event.action not in known:
            names = ", ".join(funnel.bundle.vocabulary.actions)
            raise UserError(f"events[{at}]: action {event.action!r} is unknown; known are {names}")
    users = canonical(funnel.bundle.user_ids, [event.user_id for event in events])
    items = canonical(funnel.bundle.item_ids, [event.item_id for event in events])
    rows = zip(events, users, items, strict=True)
    documents = [_document(event, user, item, now_ms) for event, user, item in rows]
    appended = _written(funnel.breakers["store"], partial(store.append, documents))
    return EventsAccepted(
        accepted=appended.accepted, duplicates=appended.duplicates, sequence=appended.sequence
    )


def _written(breaker: Breaker, write: Callable[[], Given]) -> Given:
    """What a write gives. Its failure is not held against the store: a full one can be read."""
    if not breaker.allows():
        raise StoreError("the store failed several times in a row and is left alone for a while")
    given = write()
    breaker.note(True)
    return given


def _document(event: Event, user_id: int | str, item_id: int | str, now_ms: int) -> Document:
    given = event.model_dump(exclude_none=True)
    made = {"event_id": uuid.uuid4().hex, "timestamp": now_ms, "received_at": now_ms}
    return {**made, **given, "user_id": user_id, "item_id": item_id}


def post_items(funnel: Funnel, store: Store, items: Sequence[Item]) -> ItemsAccepted:
    """Writes items and takes them into the catalogue; all or none. Raises as `post_events` does."""
    documents = [item.model_dump(exclude_none=True) for item in items]
    for at, document in enumerate(documents):
        _check(funnel, at, document)
    now_ms = funnel.clock.now_ms()
    ids = canonical(funnel.bundle.item_ids, [item.item_id for item in items])
    complete = [*_complete(documents, ids, now_ms)]
    _written(funnel.breakers["store"], partial(store.put_items, complete))
    funnel.catalogue.take_posted(store)
    rows = funnel.catalogue.rows_of(ids)
    new = (rows >= funnel.catalogue.first_posted_row) & funnel.catalogue.may_serve(rows)
    return ItemsAccepted(accepted=len(items), recommendable=int(new.sum()))


def _check(funnel: Funnel, at: int, document: Document) -> None:
    try:
        check_columns(funnel.bundle.items.features, document)
    except UserError as error:
        raise UserError(f"items[{at}]: {error}") from None


def _complete(
    documents: Iterable[Document], ids: Iterable[int | str], now_ms: int
) -> Iterable[dict[str, Any]]:
    for document, identifier in zip(documents, ids, strict=True):
        yield {"created_at": now_ms, **document, "item_id": identifier}
