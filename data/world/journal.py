"""The journal of a world: all that its replay cannot derive from the settings alone.

`world.json` holds the settings, `day-00001.npz` and so on who acted on what.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from data.contract.settings import UserError
from data.contract.storage import uri_of
from data.world.population import Flags, Rows
from data.world.settings import World


def create(latents: Path, world: World) -> None:
    """Begins the journal of a world; days recorded before are dropped."""
    latents.mkdir(parents=True, exist_ok=True)
    for old in latents.glob("day-*.npz"):
        old.unlink()
    (latents / "world.json").write_text(json.dumps(asdict(world), indent=1))


def read_world(latents: Path) -> World:
    """Reads which world a journal is of. Raises UserError where there is none."""
    path = latents / "world.json"
    if not path.exists():
        raise UserError(f"no world is recorded in {uri_of(latents)}: generate from day 1 first")
    return TypeAdapter(World).validate_json(path.read_text())


def check_world(latents: Path, world: World) -> None:
    """Raises UserError when a journal is of another world."""
    recorded = read_world(latents)
    names = [f.name for f in fields(world) if getattr(recorded, f.name) != getattr(world, f.name)]
    if names:
        raise UserError(
            f"{latents} records a world with another {', '.join(names)}: use the settings of its "
            "world.json, or generate from day 1 into another folder"
        )


def write_day(latents: Path, day: int, users: Rows, items: Rows, positive: Flags) -> None:
    """Records the pairs with an action on a day, and which of them were positive."""
    path = day_file(latents, day)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, users=users, items=items, positive=positive)
    partial.replace(path)


def read_day(latents: Path, day: int) -> tuple[Rows, Rows, Rows]:
    """Users and items of a day's actions, and the items of the positive ones.

    Raises:
        UserError: The day has not been simulated.
    """
    path = day_file(latents, day)
    if not path.exists():
        raise UserError(f"day {day} is not recorded in {latents}: generate up to it first")
    with np.load(path) as journal:
        users, items = journal["users"], journal["items"]
        return users, items, items[journal["positive"]]


def day_file(latents: Path, day: int) -> Path:
    """File with the actions of a day."""
    return latents / f"day-{day:05d}.npz"
