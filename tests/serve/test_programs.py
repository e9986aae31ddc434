"""Where the ranker's programs run."""

from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import pytest

from data.contract.settings import UserError
from serve.feed import Feed
from serve.messages import RecommendRequest
from serve.programs import CPU, GPU, open_programs, placed
from serve.settings import ServeSettings

KNOWN = onnxruntime.InferenceSession


class Session:
    """Stands for a session on a GPU: it runs on the CPU and keeps what it was asked for."""

    asked: ClassVar[list[tuple[str, list[Any]]]] = []
    started = True

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        self.asked.append((Path(path).stem, providers))
        self.providers = [one if isinstance(one, str) else one[0] for one in providers]
        self.session = KNOWN(path, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return self.providers if self.started else [CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [GPU, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(Session, "asked", [])
    monkeypatch.setattr("serve.programs.gpu_memory_bytes", lambda: 80 << 30)
    return Session


@pytest.mark.parametrize(
    ("placement", "moved"),
    [("cpu", set()), ("mixed", {"ranker_items"}), ("gpu", {"ranker_user", "ranker_items"})],
)
def test_a_placement_moves_the_rankers_programs_and_no_others(
    root: Path, gpu: type[Session], placement: Any, moved: set[str]
) -> None:
    programs = open_programs(root / "bundles" / "v1" / "programs")
    assert {name for name, providers in gpu.asked if providers != [CPU]} == set()
    after = placed(programs, placement, 0.5, bundles=4)
    on_gpu = {name: providers for name, providers in gpu.asked if providers != [CPU]}
    assert set(on_gpu) == moved
    for (name, limits), other in on_gpu.values():
        assert (name, other) == (GPU, CPU)
        assert limits["gpu_mem_limit"] == (10 << 30) // len(moved)
    assert {name for name in after if after[name] is not programs[name]} == moved


def test_where_the_ranker_runs_changes_no_answer(root: Path, gpu: type[Session]) -> None:
    found = []
    for placement in ("cpu", "mixed", "gpu"):
        settings = ServeSettings(
            placement=placement, clock="log", budget_ms=60_000.0, deadlines_ms={"default": 3e4}
        )
        feed = Feed(root, settings, background=False)
        answer = feed.recommend(RecommendRequest(user_id=3))
        found.append([(item.item_id, item.predictions) for item in answer.items])
        feed.close()
    assert found[0] == found[1] == found[2]


def test_without_a_gpu_a_placement_on_one_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"serve\.placement=mixed needs a GPU"):
        Feed(root, ServeSettings(placement="mixed"), background=False)


def test_a_gpu_that_does_not_start_is_told(
    root: Path, gpu: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "started", False)
    with pytest.raises(UserError, match="cannot start it"):
        Feed(root, ServeSettings(placement="gpu"), background=False)
