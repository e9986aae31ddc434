"""All weights of a model as one file holds them: those of the dense part, and whole tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.contract.settings import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ray_jobs.engine.loop import Snapshot

CORE, TABLES = "core.", "tables."


def split_snapshot(snapshot: Snapshot) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the core and whole tables of a snapshot."""
    core = {k.removeprefix(CORE): v for k, v in snapshot.items() if k.startswith(CORE)}
    tables = {k.removeprefix(TABLES): v for k, v in snapshot.items() if k.startswith(TABLES)}
    return core, tables


def take_over(core: nn.Module, snapshot: Snapshot) -> dict[str, Tensor]:
    """Takes a snapshot's weights over into a dense part; gives the tables.

    Raises:
        UserError: they are of another model: of other settings, columns, or an earlier release.
    """
    weights, tables = split_snapshot(snapshot)
    try:
        core.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip()
        raise UserError(
            f"the weights of this {type(core).__name__} are of other settings, other columns or an "
            f"earlier release; train it again ({detail})"
        ) from error
    return tables
