"""The application by uvicorn, in one process, with faults that files switch on while it runs.

    python -m tests.benchmarks.serve_faulty ROOT PORT FLAGS ['{"replicas": 1}']

While `FLAGS/ranker` is there the ranker raises; while `FLAGS/slow` is there the most important
source takes a second more.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from data.contract.settings import build
from serve.api import create_api
from serve.feed import Feed
from serve.settings import ServeSettings
from serve.sources import TwoTower

if TYPE_CHECKING:
    from serve.bundle import Bundle
    from serve.candidates import Found
    from serve.funnel import Funnel
    from serve.query import Query
    from serve.ranker import Ranker
    from serve.sources import Source

RANKER, SLOW = "ranker", "slow"
SLOWER_S = 1.0


class FailingRanker:
    """The ranker, or an error."""

    def __init__(self, ranker: Ranker, flag: Path) -> None:
        self._ranker, self._flag = ranker, flag

    def __call__(self, *words: Any) -> Any:
        return self._working()(*words)

    def read(self, *words: Any) -> Any:
        return self._working().read(*words)

    def rank(self, *words: Any) -> Any:
        return self._working().rank(*words)

    def rehearse(self, *words: Any) -> Any:
        return self._working().rehearse(*words)

    def _working(self) -> Ranker:
        if self._flag.exists():
            raise RuntimeError(f"{self._flag} is there")
        return self._ranker


class SlowSource:
    """A source, or the same a second later."""

    def __init__(self, source: Source, flag: Path) -> None:
        self.name, self.applies = source.name, source.applies
        self._source, self._flag = source, flag

    def __call__(self, query: Query, limit: int) -> Found:
        if self._flag.exists():
            time.sleep(SLOWER_S)
        return self._source(query, limit)


class FaultyFeed(Feed):
    """A feed whose ranker and first source may be made to fail."""

    def __init__(self, root: Path, settings: ServeSettings, flags: Path) -> None:
        self._flags = flags
        super().__init__(root, settings)

    def _build(self, bundle: Bundle) -> Funnel:
        funnel = super()._build(bundle)
        if funnel.ranker is not None:
            funnel.ranking.ranker = FailingRanker(funnel.ranker, self._flags / RANKER)
        funnel.sources = tuple(
            SlowSource(source, self._flags / SLOW) if source.name == TwoTower.name else source
            for source in funnel.sources
        )
        return funnel


def main(root: str, port: str, flags: str, settings: str = "{}") -> None:
    """Serves until Ctrl-C."""
    feed = FaultyFeed(Path(root), build(ServeSettings, json.loads(settings)), Path(flags))
    try:
        uvicorn.run(create_api(feed), port=int(port), log_level="warning", access_log=False)
    finally:
        feed.close()


if __name__ == "__main__":
    main(*sys.argv[1:5])
