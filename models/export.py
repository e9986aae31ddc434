"""Programs: modules as files that serve without our code, in torch's and in ONNX's format.

Notable here:
- a program reads a flat dict of named arrays, and those names are the input names of its files;
- sizes that differ between requests (users, events, items) are named dimensions; an export that
  fixed one of them to its example's size is refused, never written.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.onnx
from torch import Tensor, nn
from torch._dynamo.exc import UserError as DimensionError
from torch.export import Dim, ExportedProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[np.generic]]
    Served = Callable[[Arrays], Arrays]

LISTING = "programs.json"
MIN_EXAMPLE = 3
# Sizes for examples that none can mistake for another.
NUM_USERS, NUM_EVENTS, NUM_ITEMS = 3, 5, 7
CHATTY = ("torch.onnx", "onnx_ir", "onnxscript")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A module to export, and what it reads and gives.

    Attributes:
        module: `forward(inputs: dict[str, Tensor])` -> a tensor or a tuple of tensors.
        inputs: example inputs by dotted name.
        dynamic: the dimension on the leading axis of an input, such as `events`, or those on its
            leading axes. All other axes, and inputs not listed here, keep their example's size.
        outputs: name of each output.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: Mapping[str, str | tuple[str, ...]]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses sizes that export would take for constants or for one another."""
        sizes: dict[str, set[int]] = {}
        for name in self.dynamic:
            for dimension, size in zip(self.axes(name), self.inputs[name].shape, strict=False):
                sizes.setdefault(dimension, set()).add(size)
        distinct = {size for of_dimension in sizes.values() for size in of_dimension}
        if len(distinct) != len(sizes) or min(distinct, default=MIN_EXAMPLE) < MIN_EXAMPLE:
            raise ValueError(
                f"dynamic dimensions of the example are {sizes}: give each one size of its own, "
                f"at least {MIN_EXAMPLE}"
            )

    def shape(self, name: str) -> list[int | str]:
        """Shape of an input, with dynamic sizes by name, `_` for what no identifier may hold."""
        axes = self.axes(name)
        return [*axes, *self.inputs[name].shape[len(axes) :]]

    def axes(self, name: str) -> tuple[str, ...]:
        """Dimensions on the leading axes of an input."""
        given = self.dynamic.get(name, ())
        return tuple(_identifier(one) for one in ((given,) if isinstance(given, str) else given))


def write_programs(programs: Mapping[str, Program], folder: Path) -> None:
    """Writes `<name>.pt2` and `<name>.onnx` of each program, and adds them to `programs.json`.

    Args:
        programs: by name.
        folder: where to; made if absent. Programs that `programs.json` lists already stay listed.

    Raises:
        ValueError: a dynamic dimension works for the example's size alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / LISTING
    listed = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else {}
    with _quiet():
        for name, program in programs.items():
            listed[name] = _write(name, program, folder)
    listing.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _write(name: str, program: Program, folder: Path) -> dict[str, Any]:
    """Writes both files of a program; its entry of the listing."""
    exported = _exported(name, program)
    torch.export.save(exported, folder / f"{name}.pt2")
    onnx = torch.onnx.export(
        exported,
        (),
        input_names=list(program.inputs),
        output_names=list(program.outputs),
        dynamic_shapes=_dynamic_shapes(program),
        dynamo=True,
        verbose=False,
    )
    if onnx is None:
        raise RuntimeError(f"torch.onnx.export gave nothing for program {name}")
    graph = onnx.model.graph
    _keep_names_apart(graph)
    onnx.save(folder / f"{name}.onnx", external_data=False)
    entry = {"inputs": [*map(_listed, graph.inputs)], "outputs": [*map(_listed, graph.outputs)]}
    _check_shapes(name, program, entry["inputs"])
    return entry


def _exported(name: str, program: Program) -> ExportedProgram:
    module, shapes = _frozen(program.module), _dynamic_shapes(program)
    try:
        return torch.export.export(module, (program.inputs,), dynamic_shapes=shapes)
    except DimensionError as error:
        raise ValueError(
            f"program {name} works for the sizes of its example alone: its code makes a constant "
            "of a dynamic size (by len(x) or int(...) in place of x.shape[0]) or compares two of "
            f"them. {error}"
        ) from error


def _dynamic_shapes(program: Program) -> tuple[dict[str, dict[int, Dim]]]:
    axes = {name: program.axes(name) for name in program.inputs}
    dims = {name: Dim(name, min=0) for of_input in axes.values() for name in of_input}
    return ({name: {at: dims[one] for at, one in enumerate(axes[name])} for name in axes},)


def _identifier(dimension: str) -> str:
    return re.sub(r"\W", "_", dimension)


def _frozen(module: nn.Module) -> nn.Module:
    """A copy without dropout and gradients; the module itself may still be in training."""
    return copy.deepcopy(module).eval().requires_grad_(False)


def _keep_names_apart(graph: Any) -> None:
    """Renames inner values, whose names come from torch, so that none is that of an output."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = f"inner.{value.name}"


def _listed(value: Any) -> dict[str, Any]:
    """Name, dtype and shape of an input or output of an ONNX graph."""
    shape = [size if isinstance(size, int) else str(size) for size in value.shape]
    return {"name": value.name, "dtype": value.dtype.numpy().name, "shape": shape}


def _check_shapes(name: str, program: Program, listed: list[dict[str, Any]]) -> None:
    """Refuses an ONNX file whose inputs are not those of the program, in name or in shape."""
    wanted = {name: program.shape(name) for name in program.inputs}
    written = {entry["name"]: entry["shape"] for entry in listed}
    if wanted != written:
        raise ValueError(f"program {name} should read {wanted}, but its ONNX file reads {written}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters from warning about their own insides."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def parity(program: Program, served: Served, inputs: Mapping[str, Tensor]) -> float:
    """Largest absolute difference between a module and its file.

    Args:
        program: what was written.
        served: runs the file: named arrays in, named arrays out.
        inputs: of any size.

    Returns:
        Over all outputs; 0 if they are empty.

    Raises:
        ValueError: an output has another shape.
    """
    with torch.no_grad():
        eager = _frozen(program.module)(dict(inputs))
    expected = (eager,) if isinstance(eager, Tensor) else eager
    given = served({name: tensor.numpy() for name, tensor in inputs.items()})
    pairs = zip(program.outputs, expected, strict=True)
    return max(_difference(name, tensor, given[name]) for name, tensor in pairs)


def _difference(name: str, expected: Tensor, given: npt.NDArray[Any]) -> float:
    if tuple(expected.shape) != given.shape:
        raise ValueError(f"output {name} is {given.shape}, not {tuple(expected.shape)}")
    difference = (expected.double() - torch.from_numpy(given).double()).abs()
    return float(difference.max()) if difference.numel() else 0.0
