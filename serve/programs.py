"""Exported programs in ONNX Runtime: flat named arrays in, named arrays out, one thread each.

Where the ranker's two programs run is a setting: on the CPU, on a GPU, or the user side, which is
small, on the CPU and the item side, which has the candidates, on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from data.contract.settings import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from data.contract.encode import Arrays

Floats = npt.NDArray[np.float32]
Placement = Literal["cpu", "mixed", "gpu"]
CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"
USER_SIDE, ITEM_SIDE = "ranker_user", "ranker_items"
ON_GPU: dict[Placement, tuple[str, ...]] = {
    "cpu": (),
    "mixed": (ITEM_SIDE,),
    "gpu": (USER_SIDE, ITEM_SIDE),
}


class Program:
    """One exported program.

    Attributes:
        name: such as user_tower or ranker_items.
        inputs: names of the arrays it reads.
        outputs: names of the arrays it gives.
    """

    def __init__(self, path: Path, gpu_bytes: int = 0) -> None:
        self.name, self.path = path.stem, path
        providers = [_on_gpu(gpu_bytes), CPU] if gpu_bytes else [CPU]
        self._session = onnxruntime.InferenceSession(str(path), _options(), providers=providers)
        if gpu_bytes and GPU not in self._session.get_providers():
            raise UserError(
                f"ONNX Runtime has {GPU} but cannot start it: look at its driver and libraries; "
                "serve.placement=cpu runs anywhere"
            )
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        self._shapes = {value.name: value.shape for value in self._session.get_inputs()}

    def axes(self, name: str) -> int:
        """How many an input has."""
        return len(self._shapes[name])

    def width(self, name: str) -> int:
        """Size of the last axis of an input."""
        return int(self._shapes[name][-1])

    def __call__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Runs on those of `arrays` that the program reads. Raises UserError when one is absent."""
        absent = [name for name in self.inputs if name not in arrays]
        if absent:
            raise UserError(
                f"program {self.name} reads {', '.join(absent)}, which nothing here makes"
            )
        fed = {name: arrays[name] for name in self.inputs}
        return dict(zip(self.outputs, self._session.run(None, fed), strict=True))


def _on_gpu(most_bytes: int) -> tuple[str, dict[str, Any]]:
    """A GPU that others use too: without a bound the first to come takes what it likes."""
    limits = {"gpu_mem_limit": most_bytes, "arena_extend_strategy": "kSameAsRequested"}
    return GPU, limits


def _options() -> onnxruntime.SessionOptions:
    # A second thread beside a busy process costs more than it brings.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def open_programs(folder: Path) -> dict[str, Program]:
    """All programs of a bundle by name."""
    return {path.stem: Program(path) for path in sorted(folder.glob("*.onnx"))}


def placed(
    programs: Mapping[str, Program], placement: Placement, share: float, bundles: int
) -> dict[str, Program]:
    """The same programs, those of the ranker where a placement wants them.

    Args:
        programs: by name.
        placement: of the ranker.
        share: of a GPU's memory that a replica may use.
        bundles: that a replica may hold at once, among which it is divided: one that serves, one
            that is being loaded, and those of an experiment.

    Raises:
        UserError: it wants a GPU, and this machine or build has none.
    """
    moved = [name for name in ON_GPU[placement] if name in programs]
    if moved and GPU not in onnxruntime.get_available_providers():
        raise UserError(
            f"serve.placement={placement} needs a GPU and ONNX Runtime's build for it "
            "(make setup GPU=1); serve.placement=cpu runs anywhere"
        )
    if not moved:
        return dict(programs)
    each = int(share * gpu_memory_bytes() / bundles / len(moved))
    return {**programs, **{name: Program(programs[name].path, each) for name in moved}}


def gpu_memory_bytes() -> int:
    """All memory of the GPU that this process sees."""
    import torch  # takes seconds, and only replicas with a GPU need it

    return int(torch.cuda.get_device_properties(0).total_memory)


def mapped(path: Path) -> npt.NDArray[Any]:
    """An array that stays on disk until it is read; without memmap's cost at each indexing."""
    return np.asarray(np.load(path, mmap_mode="r"))


def gather_rows(table: npt.NDArray[np.floating[Any]], rows: npt.NDArray[np.int64]) -> Floats:
    """Rows of an embedding table as float32; a row past the end is a missing one, zero.

    Args:
        table: [rows, D], memory-mapped.
        rows: [N].
    """
    known = rows < len(table)
    gathered: Floats = table[np.where(known, rows, 0)].astype(np.float32)
    gathered[~known] = 0
    return gathered
