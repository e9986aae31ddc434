from pathlib import Path

import pytest

from serve.feed import Feed


def test_a_pointer_that_was_gone_is_followed_when_it_is_back(feed: Feed, root: Path) -> None:
    pointer = root / "bundles" / "CURRENT"
    named = pointer.read_text()
    pointer.unlink()
    assert not feed._switch.follow()
    assert feed._switch.refused is not None
    assert not feed._switch.is_current
    pointer.write_text(named)
    feed._switch.follow()
    assert feed._switch.refused is None
    assert feed._switch.is_current


@pytest.mark.parametrize(
    ("pinned", "said"), [("v9", "has no bundle v9"), ("", "run the pipeline first")]
)
def test_a_version_that_is_not_there_is_named(
    feed: Feed, root: Path, pinned: str, said: str
) -> None:
    feed._switch.pin(pinned)
    (root / "bundles" / "CURRENT").unlink()
    feed._switch.follow()
    assert feed._switch.refused is not None
    assert said in feed._switch.refused.reason
