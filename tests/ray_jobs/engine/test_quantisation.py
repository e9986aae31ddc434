"""Programs with products of 8-bit integers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from data.contract.settings import UserError, load
from ray_jobs.engine.quantisation import to_int8, wide_products
from ray_jobs.settings import Settings
from serve.programs import Program

WIDTH, HIDDEN, OUT = 64, 256, 3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two wide products, with a bias and without, a narrow one, and one of two inputs."""
    rng = np.random.default_rng(0)
    shapes = {"first": (HIDDEN, WIDTH), "bias": (HIDDEN,), "second": (HIDDEN, HIDDEN)}
    shapes["last"] = (HIDDEN, OUT)
    weights = [
        numpy_helper.from_array((0.1 * rng.normal(size=shape)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["hidden"], "with_bias", transB=1),
        helper.make_node("MatMul", ["hidden", "second"], ["mixed"], "plain"),
        helper.make_node("MatMul", ["mixed", "last"], ["out"], "narrow"),
        helper.make_node("MatMul", ["out", "other"], ["y"], "of_inputs"),
    ]
    inputs = [value("x", ["rows", WIDTH]), value("other", [OUT, OUT])]
    graph = helper.make_graph(nodes, "graph", inputs, [value("y", ["rows", OUT])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path_factory.mktemp("programs") / "full.onnx"
    onnx.save(model, path)
    return path


def value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_products_with_large_constant_weights_are_wide(path: Path) -> None:
    assert wide_products(onnx.load(path)) == ["with_bias", "plain"]


def test_wide_products_are_of_integers_and_near_the_others(path: Path, tmp_path: Path) -> None:
    to_int8(path, tmp_path / "int8.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert kinds.count("MatMulInteger") == 2
    assert kinds.count("MatMul") == 2
    rng = np.random.default_rng(1)
    arrays = {"x": rng.normal(size=(50, WIDTH)), "other": np.eye(OUT)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    full, small = (Program(file)(arrays)["y"] for file in (path, tmp_path / "int8.onnx"))
    assert 0 < np.abs(full - small).max() < 0.05 * np.abs(full).max()


def test_weights_are_of_seven_bits_so_that_no_processor_cuts_sums_off(
    path: Path, tmp_path: Path
) -> None:
    to_int8(path, tmp_path / "int8.onnx")
    tensors = onnx.load(tmp_path / "int8.onnx").graph.initializer
    weights = [numpy_helper.to_array(one) for one in tensors if one.data_type == TensorProto.INT8]
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == 64


def test_a_file_may_take_the_place_of_its_own_and_is_smaller(path: Path, tmp_path: Path) -> None:
    own = tmp_path / "full.onnx"
    own.write_bytes(path.read_bytes())
    to_int8(own, own)
    assert own.stat().st_size < 0.4 * path.stat().st_size
    assert Program(own).inputs == Program(path).inputs


def test_writing_says_nothing(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    to_int8(path, tmp_path / "int8.onnx")
    assert capfd.readouterr() == ("", "")


def test_another_arithmetic_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"export\.ranker.*'full' or 'int8'"):
        load(Settings, ["export.ranker=int4"])
