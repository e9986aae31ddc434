"""The tree of all settings; each group lives beside what it configures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from data.corpus import CorpusSettings
from data.intake import PrepareSettings
from data.sources import SourceSettings
from data.splits import SplitSettings
from data.windows import WindowSettings
from data.world import WorldSettings
from models.id_embeddings import IdEmbeddingSettings
from models.ranker_settings import RankerSettings
from models.two_tower import TwoTowerSettings
from models.user_encoder import UserSettings
from ray_jobs.bundle_settings import ExportSettings, IndexSettings
from ray_jobs.engine.evaluation import EvalSettings
from ray_jobs.engine.loop import TrainSettings
from ray_jobs.graph_settings import GraphSettings
from ray_jobs.tuning.settings import TuneSettings
from serve.settings import ServeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of homefeed; the defaults are the recommended run.

    Attributes:
        root: folder that holds everything of one installation.
        seed: of sampling, initial weights and evaluation (the world has its own).
    """

    root: Annotated[str, Field(min_length=1)] = "runs/default"
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    source: SourceSettings = field(default_factory=SourceSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    world: WorldSettings = field(default_factory=WorldSettings)
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    id: IdEmbeddingSettings = field(default_factory=IdEmbeddingSettings)
    graph: GraphSettings = field(default_factory=GraphSettings)
    user: UserSettings = field(default_factory=UserSettings)
    two_tower: TwoTowerSettings = field(default_factory=TwoTowerSettings)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    tune: TuneSettings = field(default_factory=TuneSettings)
