import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from data.contract.settings import UserError
from serve.bundle import Bundle
from serve.clock import Clock, wall_ms
from serve.programs import Program, gather_rows

Edit = Callable[[Path, dict[str, Any]], None]
DAY_MS = 86_400_000


def test_every_file_is_compared_with_its_checksum(root: Path) -> None:
    folder = root / "bundles" / "v1"
    for name in (
        "index.faiss",
        "programs/item_tower.onnx",
        "histories/item.npy",
        "ids/user/ids.arrow",
    ):
        copy = shutil.copytree(folder, root / "bundles" / f"copy-{Path(name).name}")
        with (copy / name).open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)[0]
            file.seek(-1, 2)
            file.write(bytes([last ^ 1]))
        with pytest.raises(UserError, match=f"{name} does not match its checksum"):
            Bundle.open(copy)


def test_ids_of_another_major_version_are_refused_naming_both(
    root: Path, edit_manifest: Edit
) -> None:
    folder = root / "bundles" / "v1"
    edit_manifest(folder, {"id_space": {"item": {"major": 2, "rows": 205}}})
    with pytest.raises(UserError, match=r"item ids \{'major': 2.* but holds \{'major': 1"):
        Bundle.open(folder)


def test_vectors_of_another_item_tower_are_refused(
    root: Path, publish_bundle: Callable[..., Path], edit_manifest: Edit
) -> None:
    publish_bundle(root, "v2", scale=0.02)
    other, folder = root / "bundles" / "v2", root / "bundles" / "v1"
    shutil.copy(other / "programs" / "item_tower.onnx", folder / "programs" / "item_tower.onnx")
    edit_manifest(folder, {"checksums": {}})
    with pytest.raises(UserError, match="not made by its item tower two_tower/tt1"):
        Bundle.open(folder)


def test_vectors_of_another_width_are_refused(root: Path, edit_manifest: Edit) -> None:
    folder = root / "bundles" / "v1"
    np.save(folder / "item_embeddings.npy", np.zeros((205, 4), np.float32))
    edit_manifest(folder, {"checksums": {}})
    with pytest.raises(UserError, match=r"item embeddings \(205, 4\) .* index of width 8"):
        Bundle.open(folder)


def test_trends_over_other_days_are_refused(root: Path, edit_manifest: Edit) -> None:
    folder = root / "bundles" / "v1"
    details = json.loads((folder / "manifest.json").read_text())["details"]
    edit_manifest(folder, {"details": {**details, "trend_days": [1, 7]}})
    with pytest.raises(UserError, match=r"over \[1, 7\] days, but this version .* gives \[1, 3, 7"):
        Bundle.open(folder)


def test_encoded_items_of_another_id_space_are_refused(root: Path, edit_manifest: Edit) -> None:
    folder = root / "bundles" / "v1"
    edit_manifest(folder, {"checksums": {}})
    np.save(folder / "ranked.known.npy", np.ones(204, bool))
    with pytest.raises(UserError, match=r"204 items as its ranker sees them but 205 item rows"):
        Bundle.open(folder)


def test_a_ranker_of_an_earlier_release_is_refused(root: Path, edit_manifest: Edit) -> None:
    folder = root / "bundles" / "v1"
    edit_manifest(folder, {"checksums": {}})
    (folder / "ranked.vectors.npy").unlink()
    with pytest.raises(UserError, match="no items as its ranker sees them; export and index again"):
        Bundle.open(folder)


def test_a_ranker_of_one_user_at_a_time_is_refused(root: Path, edit_manifest: Edit) -> None:
    folder = root / "bundles" / "v1"
    edit_manifest(folder, {"checksums": {}})
    program = folder / "programs" / "ranker_items.onnx"
    model = onnx.load(program)
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.input}
    del shapes["candidate.vectors"].dim[0]
    onnx.save(model, program)
    with pytest.raises(UserError, match="ranks one user at a time; export and index again"):
        Bundle.open(folder)


@pytest.fixture
def graph_folder(root: Path, publish_bundle: Callable[..., Path], edit_manifest: Edit) -> Path:
    """Of a bundle with a graph, whose files may be changed."""
    publish_bundle(root, "v2", graph=True)
    edit_manifest(root / "bundles" / "v2", {"checksums": {}})
    return root / "bundles" / "v2"


def test_a_graph_is_mapped_and_one_of_other_items_refused(graph_folder: Path) -> None:
    graph = Bundle.open(graph_folder).graph
    assert graph is not None
    assert isinstance(graph.boards.indices, np.memmap)
    assert (graph.num_items, graph.num_boards, graph.num_edges) == (205, 20, 190)
    np.save(graph_folder / "graph" / "items.indptr.npy", np.asarray(graph.items.indptr)[:-1])
    with pytest.raises(UserError, match=r"graph of 204 items .* but 205 item rows; export again"):
        Bundle.open(graph_folder)


def test_a_graph_with_sides_of_two_graphs_is_refused(graph_folder: Path) -> None:
    np.save(graph_folder / "graph" / "boards.indices.npy", np.zeros(7, np.int32))
    with pytest.raises(UserError, match=r"\(190, 7\) edges from either side"):
        Bundle.open(graph_folder)


def test_headroom_of_a_table_is_not_served(root: Path) -> None:
    bundle = Bundle.open(root / "bundles" / "v1")
    rows = np.array([0, 204, 205, 10_000])
    served = bundle.id_rows("two_tower", "item", rows)
    assert served.dtype == np.float32
    assert not served[[0, 2, 3]].any()
    assert served[1].any()


def test_a_program_says_what_it_lacks(root: Path) -> None:
    program = Program(root / "bundles" / "v1" / "programs" / "item_tower.onnx")
    assert program.inputs == ("item_id.rows", "item.content")
    with pytest.raises(UserError, match=r"item_tower reads item\.content"):
        program({"item_id.rows": np.zeros((1, 8), np.float32)})


def test_half_precision_tables_are_served_as_float32() -> None:
    table = np.ones((3, 2), np.float16)
    assert gather_rows(table, np.array([1, 5])).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_over_an_old_log_time_goes_on_where_the_log_ends(root: Path, edit_manifest: Edit) -> None:
    folder = root / "bundles" / "v1"
    edit_manifest(folder, {"created": "2026-06-01T00:00:00+00:00"})
    bundle = Bundle.open(folder)
    created = 1_780_272_000_000
    end = 1_767_225_600_000 + 10 * DAY_MS
    since = wall_ms() - created
    assert abs(Clock(bundle, "auto").now_ms() - (end + since)) < 10_000
    assert abs(Clock(bundle, "wall").now_ms() - wall_ms()) < 10_000


def test_over_a_log_of_today_time_is_wall_time(root: Path, edit_manifest: Edit) -> None:
    folder = root / "bundles" / "v1"
    edit_manifest(folder, {"created": "2026-01-12T00:00:00+00:00"})
    bundle = Bundle.open(folder)
    assert abs(Clock(bundle, "auto").now_ms() - wall_ms()) < 10_000
    assert Clock(bundle, "log").now_ms() < wall_ms()
