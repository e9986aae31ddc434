"""All weights of a model as one file holds them: those of the dense part, and whole tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ray_jobs.engine.loop import Snapshot

CORE, TABLES = "core.", "tables."


def split_snapshot(snapshot: Snapshot) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the core and whole tables of a snapshot."""
    core = {k.removeprefix(CORE): v for k, v in snapshot.items() if k.startswith(CORE)}
    tables = {k.removeprefix(TABLES): v for k, v in snapshot.items() if k.startswith(TABLES)}
    return core, tables
