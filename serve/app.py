"""The Ray Serve application: one deployment, everything of a request in one process.

`from serve.app import app`; in a Serve configuration file `import_path: serve.app:app` with
`args: {root: /path/of/the/root, settings: {candidates: 500}}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve

from data.contract.settings import build
from serve.api import create_api
from serve.feed import Feed
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

NAME = "homefeed"


class FeedReplica:
    """A process that serves a root.

    Args:
        root: absolute path of the root.
        settings: of serving, as plain values.
    """

    def __init__(self, root: str, settings: dict[str, Any]) -> None:
        self._feed = Feed(Path(root), build(ServeSettings, settings))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._feed)

    def __del__(self) -> None:
        self._feed.close()


def app(args: dict[str, Any]) -> Application:
    """The application that serves `args["root"]` with `args["settings"]`."""
    settings = build(ServeSettings, args.get("settings", {}))
    deployment = serve.deployment(
        name=NAME,
        num_replicas=settings.replicas,
        logging_config={"enable_access_log": False},
        max_ongoing_requests=2 * settings.max_concurrent,
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}},
    )(serve.ingress()(FeedReplica))
    return deployment.bind(str(Path(args["root"]).resolve()), args.get("settings", {}))
