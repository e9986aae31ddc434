"""The page, in a real browser."""

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from serve.api import create_api
from serve.feed import Feed
from serve.messages import Item
from tests.e2e.processes import free_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (make servers)")


@pytest.fixture
def url(feed: Feed) -> Iterator[str]:
    """The application over loopback."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_api(feed), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 20
    while not server.started and time.monotonic() < end:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def page(url: str) -> Iterator[Any]:
    """The page, opened; a mistake in its script fails the test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.set_default_timeout(30_000)
        opened.goto(url)
        opened.wait_for_function("document.getElementById('user').value !== ''")
        yield opened
        browser.close()
        assert errors == []


def items(page: Any) -> list[str]:
    return [row.get_attribute("data-item") for row in page.locator("#feed tbody tr").all()]


def show(page: Any, user: str) -> list[str]:
    page.fill("#user", user)
    page.click("text=show feed")
    page.wait_for_selector("#feed tbody tr")
    return items(page)


def test_a_feed_is_shown_with_where_it_comes_from(page: Any) -> None:
    assert len(show(page, "3")) == 20
    assert "bundle v1" in page.inner_text("#version")
    first = page.inner_text("#feed tbody tr:first-child")
    assert "save" in first
    assert any(name in first for name in ("two_tower", "popular", "pinnersage", "fresh", "explore"))
    funnel = page.inner_text("#funnel")
    assert "found by two_tower" in funnel
    assert "dropped: score" in funnel
    assert "total" in page.inner_text("#times")


def test_an_action_changes_the_feed(page: Any) -> None:
    before = show(page, "3")
    page.select_option("#feed tbody tr:first-child select", "save")
    page.click("#feed tbody tr:first-child >> text=send")
    page.wait_for_function("document.getElementById('message').textContent.includes('is in')")
    after = items(page)
    assert before[0] not in after
    assert after != before
    newest = page.inner_text("#actions tbody tr:first-child")
    assert "save" in newest
    assert before[0] in newest


def test_similar_items_are_shown(page: Any) -> None:
    shown = show(page, "3")
    page.click("#feed tbody tr:first-child >> text=similar")
    page.wait_for_selector("#similar tbody tr")
    assert shown[0] in page.inner_text("#about")
    assert page.locator("#similar tbody tr").count() == 8


def test_a_bad_user_is_told(page: Any) -> None:
    page.fill("#user", "nobody")
    page.click("text=show feed")
    page.wait_for_function("document.getElementById('message').textContent.includes('422')")
    assert items(page) == []


def test_ids_beyond_the_numbers_of_a_browser_are_told_and_sent_exactly(
    page: Any, feed: Feed
) -> None:
    large = 2**53 + 1
    feed.post_items([Item(item_id=large, content=[0.5] * 8), Item(item_id=-large)])
    told = page.evaluate(f"call('/v1/items/{large}/similar?num_items=500')")
    assert told["item_id"] == str(large)
    assert str(-large) in [item["item_id"] for item in told["items"]]
    assert all(isinstance(item["score"], float) for item in told["items"][:5])
    show(page, str(large))
    page.evaluate(f"send('{large}', 'save')")
    assert str(large) in page.inner_text("#actions tbody tr:first-child")
    assert feed.actions(large, 1).actions[0].item_id == large
