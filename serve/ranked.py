"""Items as the ranker sees them: what does not depend on who asks is computed with the bundle.

Files of a bundle: `ranked.vectors.npy` float32[rows, D], `ranked.codes.npy` int64[rows, K] and
`ranked.known.npy` bool[rows], 4 D + 8 K + 1 bytes an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract.array_file import create_array
from data.contract.encode import Arrays, Ints
from serve.ids import Mask
from serve.programs import Floats, Program, gather_rows, mapped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from data.contract.encode import FeatureTable
    from data.contract.idspace import IdSpace

PROGRAM, TABLE = "ranker_item", "ranker.item_id"
FIELDS = "vectors", "codes", "known"
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Ranked:
    """N items as the ranker sees them.

    Attributes:
        vectors: [N, D].
        codes: hashes of their categorical columns, 0 missing, int64[N, K].
        known: whether there was a trained ID row to go by, [N].
    """

    vectors: Floats
    codes: Ints
    known: Mask

    @classmethod
    def of(cls, program: Program, id_rows: Floats, features: Arrays) -> Ranked:
        """By the exported encoder, of ID rows [N, id_dim] and features."""
        found = program({"item_id.rows": id_rows, **features})
        vectors, codes = (
            np.asarray(found["vectors"], np.float32),
            np.asarray(found["codes"], np.int64),
        )
        return cls(vectors, codes, np.any(id_rows, axis=1))

    @classmethod
    def unknown(cls, program: Program, features: Arrays, count: int) -> Ranked:
        """The same of `count` items that the ranker was not trained on."""
        return cls.of(
            program, np.zeros((count, program.width("item_id.rows")), np.float32), features
        )

    @classmethod
    def open(cls, folder: Path) -> Ranked | None:
        """Those of a bundle, memory-mapped; None where there is no ranker."""
        paths = [folder / f"ranked.{name}.npy" for name in FIELDS]
        if not all(path.is_file() for path in paths):
            return None
        return cls(*(mapped(path) for path in paths))

    @classmethod
    def join(cls, parts: Sequence[Ranked]) -> Ranked:
        """All of several."""
        fields = ([getattr(part, name) for part in parts] for name in FIELDS)
        return cls(*map(np.concatenate, fields))

    def take(self, rows: Ints) -> Ranked:
        """Some of them."""
        return Ranked(self.vectors[rows], self.codes[rows], self.known[rows])

    def overlay(self, others: Ranked, where: Mask) -> None:
        """Writes others over those marked by `where` [N], in place."""
        for name in FIELDS:
            getattr(self, name)[where] = getattr(others, name)

    def inputs(self, prefix: str) -> Arrays:
        """What the ranker's other programs read."""
        return {f"{prefix}vectors": self.vectors, f"{prefix}codes": self.codes}


def write_ranked(export: Path, folder: Path, items: FeatureTable, space: IdSpace) -> None:
    """Encodes all items for a bundle; nothing where the export has no ranker.

    Args:
        export: folder with the program and the ID table, which serving does not read.
        folder: of the bundle that is being made.
        items: their features.
        space: their rows; those of unknown items, which histories have, are encoded too.
    """
    if not (export / "programs" / f"{PROGRAM}.onnx").is_file():
        return
    program = Program(export / "programs" / f"{PROGRAM}.onnx")
    table = mapped(export / "tables" / f"{TABLE}.npy")
    written: list[Floats] = []
    for at in range(0, space.rows, CHUNK):
        chunk = np.arange(at, min(at + CHUNK, space.rows))
        part = Ranked.of(program, gather_rows(table, chunk), items.gather(chunk))
        written = written or _files(folder, part, space.rows)
        for name, file in zip(FIELDS, written, strict=True):
            file[chunk] = getattr(part, name)


def _files(folder: Path, like: Ranked, rows: int) -> list[Floats]:
    arrays = [(name, getattr(like, name)) for name in FIELDS]
    return [
        create_array(folder / f"ranked.{name}.npy", array.dtype, (rows, *array.shape[1:]))
        for name, array in arrays
    ]
