"""The application by uvicorn alone, in one process: what Ray Serve is measured against.

python -m tests.benchmarks.serve_plain <root> <port> [settings of serving as key=value ...]
"""

import sys
from pathlib import Path

import uvicorn

from data.contract.settings import load
from serve.api import create_api
from serve.feed import Feed
from serve.settings import ServeSettings


def main(root: str, port: str, *words: str) -> None:
    """Serves until Ctrl-C."""
    feed = Feed(Path(root), load(ServeSettings, words))
    try:
        uvicorn.run(create_api(feed), port=int(port), log_level="warning", access_log=False)
    finally:
        feed.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
