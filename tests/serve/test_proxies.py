"""What listens, and how much of a machine replicas take."""

import gc
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.contract.settings import UserError, build
from serve import app as serve_app
from serve.access import TOKEN
from serve.app import FeedReplica, app, refuse_overcommitment, replicas, resources
from serve.proxies import ENVIRONMENT, refuse_open
from serve.settings import ServeSettings


def test_haproxy_needs_a_token_wherever_it_is_said_to_listen() -> None:
    settings = ServeSettings(proxy="haproxy")
    with pytest.raises(UserError, match="listens on all interfaces"):
        refuse_open(settings, "")
    refuse_open(settings, "secret")
    refuse_open(ServeSettings(), "")


def test_a_configuration_file_is_held_to_the_proxy_that_it_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve deploy` starts what the environment of Ray says: users were kept with no replica."""
    args = {"root": str(tmp_path), "settings": {"proxy": "haproxy"}}
    monkeypatch.delenv(TOKEN, raising=False)
    for name in ENVIRONMENT["haproxy"]:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="listens on all interfaces"):
        app(args)
    monkeypatch.setenv(TOKEN, "secret")
    with pytest.raises(UserError, match=r"RAY_SERVE_ENABLE_HA_PROXY='1' .* before ray start"):
        app(args)
    for name, value in ENVIRONMENT["haproxy"].items():
        monkeypatch.setenv(name, value)
    assert app(args)


def test_a_replica_that_others_reach_is_refused_without_a_token_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(UserError, match=r"serve\.host=0\.0\.0\.0, .* lets other"):
        FeedReplica(str(tmp_path), {"host": "0.0.0.0"})
    gc.collect()  # it has nothing to close
    monkeypatch.setenv(TOKEN, "secret")
    FeedReplica(str(tmp_path), {"host": "0.0.0.0"})


@pytest.mark.parametrize(("listens", "refused"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_where_ray_serve_listens_counts_and_not_what_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: str, refused: bool
) -> None:
    """`serve deploy` listens where `http_options` say, on all interfaces by default."""
    client = SimpleNamespace(http_config=SimpleNamespace(host=listens))
    monkeypatch.setattr(serve_app, "is_initialized", lambda: True)
    monkeypatch.setattr(serve_app, "_get_global_client", lambda **_: client)
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(UserError, match="lets other machines") if refused else nullcontext():
        FeedReplica(str(tmp_path), {})


def test_no_more_requests_wait_for_replicas_than_they_can_take_at_once(tmp_path: Path) -> None:
    settings = {"max_concurrent": 30, "replicas": 2, "max_replicas": 5}
    deployment = app({"root": str(tmp_path), "settings": settings})._bound_deployment
    assert deployment.max_queued_requests == 150


def test_replicas_come_and_go_between_bounds() -> None:
    assert replicas(ServeSettings(replicas=3)) == {"num_replicas": 3}
    found = replicas(ServeSettings(replicas=2, max_replicas=5, target_requests=1.5))
    bounds = {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 1.5}
    assert found == {"autoscaling_config": bounds}


def test_more_replicas_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(UserError, match=r"max_replicas=1 is less than serve\.replicas=2"):
        build(ServeSettings, {"replicas": 2, "max_replicas": 1})


def test_a_bound_on_each_client_needs_to_see_them() -> None:
    with pytest.raises(UserError, match=r"serve\.rate=5 would bound all clients together"):
        build(ServeSettings, {"rate": 5.0, "proxy": "haproxy"})
    assert build(ServeSettings, {"rate": 5.0}).rate == 5.0


def test_only_a_placement_on_a_gpu_takes_a_share_of_one() -> None:
    assert "num_gpus" not in resources(ServeSettings())
    assert resources(ServeSettings(placement="mixed", gpu_share=0.5))["num_gpus"] == 0.5


@pytest.mark.parametrize(
    ("share", "most", "gpus", "fits"),
    [
        (0.25, 4, 1, True),
        (0.25, 5, 1, False),
        (0.4, 3, 1, False),
        (0.4, 4, 2, True),
        (1, 1, 0, False),
    ],
)
def test_replicas_that_do_not_fit_on_the_gpus_are_refused(
    share: float, most: int, gpus: int, fits: bool
) -> None:
    settings = ServeSettings(placement="gpu", gpu_share=share, max_replicas=most)
    if fits:
        refuse_overcommitment(settings, gpus)
    else:
        with pytest.raises(UserError, match=rf"{most} replicas .* do not fit on {gpus} GPUs"):
            refuse_overcommitment(settings, gpus)
    refuse_overcommitment(ServeSettings(max_replicas=most), 0)
