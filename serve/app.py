"""The Ray Serve application: one deployment, everything of a request in one process.

`from serve.app import app`; in a Serve configuration file (`serve/config.yaml`) `import_path:
serve.app:app` with `args: {root: /path/of/the/root, settings: {candidates: 500}}`. The deployment's
`user_config: {bundle: <version>}` names what to serve, and changes it without a restart; without
one, replicas follow `bundles/CURRENT`.
"""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import is_initialized, serve
from ray.serve.context import _get_global_client

from data.contract import storage
from data.contract.settings import UserError, build
from serve.access import TOKEN
from serve.api import create_api
from serve.feed import Feed
from serve.proxies import refuse_open, refuse_other_proxy
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

NAME = "homefeed"


class FeedReplica:
    """A process that serves a root.

    What it has imported by now stays until it ends: looking for garbage among that would stop all
    requests for a tenth of a second once in some thousands of them.

    Args:
        root: absolute path of the root.
        settings: of serving, as plain values.

    Raises:
        UserError: others could ask, and this process has no token.
    """

    def __init__(self, root: str, settings: dict[str, Any]) -> None:
        gc.collect()
        gc.freeze()
        known = build(ServeSettings, settings)
        # Of this process: who deployed it may have a token that the cluster was started without.
        refuse_open(replace(known, host=listening_host(known)), os.environ.get(TOKEN, ""))
        self._feed = Feed(Path(root), known, opened=False)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes `{"bundle": version}`: Ray tells it before the replica is ready, and anew later.

        The first time it serves when this returns; later the feed's own thread switches, and
        requests go on meanwhile.

        Raises:
            UserError: there is no bundle that can serve.
        """
        self._feed.pin(user_config.get("bundle") or "")
        self._feed.open()

    def check_health(self) -> None:
        """Ray asks before the replica is ready, too where it had nothing to tell `reconfigure`."""
        self._feed.open()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._feed)

    def __del__(self) -> None:
        if "_feed" in vars(self):  # one that was refused has none
            self._feed.close()


def app(args: dict[str, Any]) -> Application:
    """The application that serves `args["root"]` with `args["settings"]`. Raises UserError."""
    settings = build(ServeSettings, args.get("settings", {}))
    refuse_open(settings, os.environ.get(TOKEN, ""))
    refuse_other_proxy(settings, os.environ)
    deployment = serve.deployment(
        name=NAME,
        logging_config={"enable_access_log": False},
        max_ongoing_requests=2 * settings.max_concurrent,
        max_queued_requests=settings.max_concurrent * settings.most_replicas,
        ray_actor_options=resources(settings),
        user_config={},
        **routing(settings),
        **replicas(settings),
    )(serve.ingress()(FeedReplica))
    root = storage.mirror(args["root"])
    if storage.is_uri(args["root"]):  # who only tries a bundle names its mirror
        refuse_lone_store(root, settings)
    return deployment.bind(str(root.resolve()), args.get("settings", {}))


def listening_host(settings: ServeSettings) -> str:
    """Where Ray Serve listens, which a configuration file says beside the settings."""
    client = _get_global_client(raise_if_no_controller_running=False) if is_initialized() else None
    return settings.host if client is None else client.http_config.host or settings.host


def routing(settings: ServeSettings) -> dict[str, Any]:
    """Who chooses among replicas; HAProxy chooses itself (serve.proxies)."""
    if settings.proxy == "haproxy":
        return {}
    return {"request_router_config": {"request_router_class": "serve.routing:UserRouter"}}


def replicas(settings: ServeSettings) -> dict[str, Any]:
    """How many there are: as many as set, or as many as are needed."""
    if not settings.max_replicas:
        return {"num_replicas": settings.replicas}
    bounds = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
    target = {"target_ongoing_requests": settings.target_requests}
    return {"autoscaling_config": bounds | target}


def resources(settings: ServeSettings) -> dict[str, Any]:
    """What a replica takes of a machine."""
    needed: dict[str, Any] = {"num_cpus": 1, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    return needed if settings.placement == "cpu" else needed | {"num_gpus": settings.gpu_share}


def refuse_lone_store(root: Path, settings: ServeSettings) -> None:
    """Raises UserError where what is posted would stay on a machine that its root does not."""
    if storage.is_mirrored(root) and settings.store == "local":
        raise UserError(
            f"serve.store=local keeps what is posted on this machine, and {storage.uri_of(root)} "
            "does not: no next day would find it; set serve.store=redis://host:port/0"
        )


def refuse_overcommitment(settings: ServeSettings, gpus: int) -> None:
    """Raises UserError for more replicas than fit on so many GPUs: memory has no queue."""
    room = int(1 / settings.gpu_share + 1e-9) * gpus
    if settings.placement != "cpu" and settings.most_replicas > room:
        raise UserError(
            f"{settings.most_replicas} replicas with serve.gpu_share={settings.gpu_share} do not "
            f"fit on {gpus} GPUs, which have room for {room}; give each less, or start fewer"
        )
