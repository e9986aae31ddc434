"""Which towers made an index: a note beside it, so that it is never asked by another user tower."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from data.contract.artifact import checksum
from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from data.contract.artifact import Artifact

FILE = "index.json"
MODEL = "two_tower"
PARTS = (
    *("index.faiss", "item_embeddings.npy"),
    *("programs/item_tower.onnx", "programs/user_tower.onnx"),
)


def write_pairing(folder: Path, versions: Mapping[str, str]) -> None:
    """Notes the version of the towers, and what was made by or goes with them.

    Args:
        folder: the bundle, its index, vectors and programs in place.
        versions: of the models exported.
    """
    parts = {name: checksum(folder / name) for name in PARTS}
    note = {MODEL: versions[MODEL], "parts": parts}
    (folder / FILE).write_text(json.dumps(note, indent=1))


def check_pairing(artifact: Artifact) -> None:
    """Refuses an index and a user tower of different versions; bundles without a note pass.

    Raises:
        UserError: the versions, or a part and the note, differ; both are named.
    """
    if not (artifact.path / FILE).is_file():
        return
    note: dict[str, Any] = json.loads((artifact.path / FILE).read_text())
    name, held = artifact.manifest.name, artifact.manifest.details["versions"].get(MODEL)
    if note[MODEL] != held:
        raise UserError(
            f"{name}: its index and item embeddings were made by {MODEL}/{note[MODEL]}, but its "
            f"user tower is that of {MODEL}/{held}; index the export again"
        )
    sums = artifact.manifest.checksums
    for part, made in note["parts"].items():
        if sums.get(part, made) != made:
            raise UserError(
                f"{name}: {part} ({sums[part][:12]}) is not the one ({made[:12]}) that its index "
                f"was made with for {MODEL}/{held}; index the export again"
            )
