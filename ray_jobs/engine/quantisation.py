"""An exported program whose wide products are of 8-bit integers.

Weights are rounded once, to one scale an output; what they are multiplied with is rounded in each
call, to 8 bits and one scale a call. So what a row gives depends a little on the other rows of its
call.

Of their 8 bits weights use 7: processors without VNNI add two products in 16 bits, and cut off what
is more (ONNX Runtime, "When to use reduce-range"). Whoever serves may have another processor.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRODUCTS = ("MatMul", "Gemm")
# Numbers in a weight from which a product takes time that is worth saving.
LEAST_WEIGHT = 10_000


def to_int8(path: Path, target: Path) -> None:
    """Writes a program of 32-bit numbers with 8-bit products in place of its wide ones.

    Args:
        path: the ONNX file.
        target: the file written; may be the same.
    """
    wide = wide_products(onnx.load(path))
    with _quiet():
        quantize_dynamic(
            path,
            target,
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            op_types_to_quantize=[*PRODUCTS],
            # Products with a bias are split first, under another name.
            nodes_to_quantize=[*wide, *(f"{name}_MatMul" for name in wide)],
            extra_options={"MatMulConstBOnly": True},
        )


def wide_products(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a constant weight of at least `LEAST_WEIGHT` numbers."""
    sizes = {
        weight.name: weight.dims[0] * weight.dims[1]
        for weight in model.graph.initializer
        if len(weight.dims) == 2
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type in PRODUCTS and sizes.get(node.input[1], 0) >= LEAST_WEIGHT
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to optimise first: that fuses what is left, and saves nothing here."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
