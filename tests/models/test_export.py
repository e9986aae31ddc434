"""Exported programs give what their modules give, at sizes that export did not see."""

import copy
import dataclasses
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.contract.schema import Feature, Vocabulary
from models.export import Program, parity, write_programs
from models.multi_interest import InterestSettings
from models.ranker import Ranker
from models.ranker_settings import RankerSettings
from models.sequence_encoder import SequenceSettings
from models.two_tower import TwoTower, TwoTowerSettings
from serve.programs import Program as ServedProgram

TOLERANCE = 1e-5
MAX_LENGTH = 12
VOCABULARY = Vocabulary(
    order="clock",
    actions=("click", "save"),
    polarity=("positive", "positive"),
    item_features=(
        Feature(name="age", kind="numeric", mean=1, std=2, low=0, high=9),
        Feature(name="format", kind="categorical", cardinality=5),
        Feature(name="tags", kind="multi", cardinality=30),
        Feature(name="content", kind="vector", dim=6),
    ),
    user_features=(Feature(name="country", kind="categorical", cardinality=9),),
)
SEQUENCE = SequenceSettings(max_length=MAX_LENGTH, num_layers=1)
TOWERS = TwoTowerSettings(
    dim=8, id_dim=8, hidden=16, sequence=SEQUENCE, interests=InterestSettings(num=0)
)
RANKER = RankerSettings(dim=8, id_dim=4, hidden=16, sequence=SEQUENCE)
HISTORIES = [
    *([0], [1], [2], [MAX_LENGTH], [0, 0], [0, 1], [3, 0, 5], [0] * 7),
    *([i % (MAX_LENGTH + 1) for i in range(num_users)] for num_users in (499, 500, 1024)),
]
CODES = {"history.action": 3, "history.surface": 2, "request.surface": 2}

Written = tuple[dict[str, Program], Path]


def inputs_of(program: Program, num_items: int, history: list[int], tags: int) -> dict[str, Tensor]:
    """Random arrays for items with `tags` values a list column, and users with a `history`."""
    sizes = {"items": num_items, "users": len(history), "events": sum(history)}
    lengths = {"history.lengths": torch.tensor(history)}
    for name in program.dynamic:
        if name.endswith(".lengths") and name not in lengths:
            count = sizes[program.axes(name)[0]]
            lengths[name] = torch.full((count,), tags)
            values = name.removesuffix("lengths") + "values"
            sizes[program.axes(values)[0]] = tags * count
    return {
        name: lengths[name] if name in lengths else random_like(name, example, program, sizes)
        for name, example in program.inputs.items()
    }


def random_like(name: str, example: Tensor, program: Program, sizes: dict[str, int]) -> Tensor:
    shape = tuple(sizes.get(size, size) for size in program.shape(name))
    if example.dtype == torch.int64:
        return torch.randint(0, CODES.get(name, 10**10), shape)
    if name in ("liked", "recent", "hidden"):
        return torch.rand(shape).softmax(-1)
    values = torch.randn(shape)
    missing = torch.nan if name.endswith("item.age") else 0.0
    return values.masked_fill(torch.rand(shape[0], *[1] * (values.dim() - 1)) < 0.2, missing)


def models() -> tuple[TwoTower, Ranker]:
    """In training mode, as they are when training ends."""
    torch.manual_seed(0)
    return TwoTower(TOWERS, VOCABULARY), Ranker(RANKER, VOCABULARY)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Both models' programs, written one after the other: the listing has to keep all."""
    folder = tmp_path_factory.mktemp("export") / "programs"
    written: dict[str, Program] = {}
    for model in models():
        programs = model.programs()
        write_programs(programs, folder)
        written |= programs
    return written, folder


def served(folder: Path, name: str) -> ServedProgram:
    return ServedProgram(folder / f"{name}.onnx")


def listing(folder: Path) -> Any:
    return json.loads((folder / "programs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["item_tower", "ranker_item"])
@pytest.mark.parametrize("tags", [0, 1, 3])
@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 499, 500, 1024])
def test_served_items_equal_the_module(
    written: Written, name: str, num_items: int, tags: int
) -> None:
    programs, folder = written
    inputs = inputs_of(programs[name], num_items, [], tags)
    assert parity(programs[name], served(folder, name), inputs) < TOLERANCE


@pytest.mark.parametrize("num_users", [1, 2, 8])
@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 499, 500])
def test_served_candidates_equal_the_module(
    written: Written, num_users: int, num_items: int
) -> None:
    programs, folder = written
    program = programs["ranker_items"]
    inputs = inputs_of(program, num_items, [0] * num_users, 0)
    assert parity(program, served(folder, "ranker_items"), inputs) < TOLERANCE


@pytest.mark.parametrize("name", ["user_tower", "ranker_user"])
@pytest.mark.parametrize(
    "history", HISTORIES, ids=lambda history: f"{len(history)}_users_{sum(history)}_events"
)
def test_served_users_equal_the_module(written: Written, name: str, history: list[int]) -> None:
    programs, folder = written
    inputs = inputs_of(programs[name], 0, history, 2)
    assert parity(programs[name], served(folder, name), inputs) < TOLERANCE


def test_a_log_of_bare_pairs_exports_too(tmp_path: Path) -> None:
    vocabulary = Vocabulary(order="none", actions=("save",), polarity=("positive",))
    program = TwoTower(TOWERS, vocabulary).programs()["user_tower"]
    write_programs({"user_tower": program}, tmp_path)
    inputs = inputs_of(program, 0, [2, 0, 7], 0)
    inputs |= {name: inputs[name].clamp(max=1) for name in inputs.keys() & CODES.keys()}
    assert "history.gap_ms" not in inputs
    assert parity(program, served(tmp_path, "user_tower"), inputs) < TOLERANCE


def test_the_torch_file_equals_the_module(written: Written) -> None:
    programs, folder = written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(folder / "user_tower.pt2").module()
    inputs = inputs_of(programs["user_tower"], 0, [2, 0, 0, 9, 1], 0)
    expected = copy.deepcopy(programs["user_tower"].module).eval()(inputs)
    assert torch.allclose(module(inputs), expected, atol=TOLERANCE)


def test_the_listing_names_dynamic_sizes(written: Written) -> None:
    listed = listing(written[1])
    towers = {"item_tower", "user_tower", "item_prior"}
    assert set(listed) == towers | {"ranker_item", "ranker_user", "ranker_items"}
    inputs = {entry["name"]: entry for entry in listed["user_tower"]["inputs"]}
    gap = {"name": "history.gap_ms", "dtype": "int64", "shape": ["events"]}
    assert inputs["history.gap_ms"] == gap
    assert inputs["user_id.rows"]["shape"] == ["users", TOWERS.id_dim]
    assert listed["item_tower"]["outputs"] == [
        {"name": "embedding", "dtype": "float32", "shape": ["items", TOWERS.dim]}
    ]


def test_files_read_and_give_what_the_listing_says(written: Written) -> None:
    programs, folder = written
    for name, entry in listing(folder).items():
        file = served(folder, name)
        assert list(file.inputs) == [array["name"] for array in entry["inputs"]]
        assert set(file.inputs) == set(programs[name].inputs)
        assert list(file.outputs) == [array["name"] for array in entry["outputs"]]
        assert file.outputs == programs[name].outputs


class Scores(nn.Module):
    """Two outputs, an input that is not read, names that torch gives to inner values too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        rows = self.dropout(self.table(inputs["b.codes"]))
        scores = rows - 2 * self.table(inputs["a.codes"])
        return scores, scores @ inputs["state"].T


def numpy_of(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def scores(num_items: int) -> Program:
    codes = {name: torch.randint(0, 9, (num_items,)) for name in ("b.codes", "a.codes", "unread")}
    return Program(
        module=Scores(),
        inputs=codes | {"state": torch.randn(1, 4)},
        dynamic=dict.fromkeys(codes, "items"),
        outputs=("embedding", "mul"),
    )


@pytest.fixture(scope="module")
def written_scores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, ServedProgram]:
    folder, program = tmp_path_factory.mktemp("scores"), scores(5)
    write_programs({"scores": program}, folder)
    return program, served(folder, "scores")


def test_arrays_keep_their_names_whatever_torch_calls_them(
    written_scores: tuple[Program, ServedProgram],
) -> None:
    program, file = written_scores
    assert set(file.inputs) == {"b.codes", "a.codes", "unread", "state"}
    assert file.outputs == ("embedding", "mul")
    for num_items in (3, 4, 1024):
        assert parity(program, file, scores(num_items).inputs) < TOLERANCE


def test_a_written_module_goes_on_training(
    written_scores: tuple[Program, ServedProgram],
) -> None:
    module = written_scores[0].module
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_difference_between_module_and_file_is_seen(
    written_scores: tuple[Program, ServedProgram],
) -> None:
    program, file = written_scores
    other = dataclasses.replace(program, module=Scores())
    assert parity(other, file, program.inputs) > 0.1


def test_an_output_of_another_shape_is_refused(
    written_scores: tuple[Program, ServedProgram],
) -> None:
    program, file = written_scores
    with pytest.raises(ValueError, match=r"output embedding is \(4, 4\), not \(5, 4\)"):
        parity(program, lambda _: file(numpy_of(scores(4).inputs)), program.inputs)


def test_writing_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_programs({"scores": scores(4)}, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class Fixed(nn.Module):
    """Works for three items only, and does not say so."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["rows"] + torch.ones(3, 1)


def test_a_program_that_fixes_a_dynamic_size_is_refused(tmp_path: Path) -> None:
    program = Program(
        module=Fixed(),
        inputs={"rows": torch.randn(3, 2)},
        dynamic={"rows": "items"},
        outputs=("sum",),
    )
    with pytest.raises(ValueError, match=r"program fixed works for the sizes of its example alone"):
        write_programs({"fixed": program}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_items", [1, 2])
def test_examples_that_export_takes_for_constants_are_refused(num_items: int) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        scores(num_items)


@pytest.mark.parametrize("sizes", [(4, 4), (4, 5, 6)], ids=["two_alike", "one_with_two_sizes"])
def test_examples_that_mix_dimensions_up_are_refused(sizes: tuple[int, ...]) -> None:
    inputs = {f"input{i}": torch.randn(size) for i, size in enumerate(sizes)}
    dynamic = {f"input{i}": ("items", "users")[i % 2] for i in range(len(sizes))}
    with pytest.raises(ValueError, match="give each one size of its own"):
        Program(module=Fixed(), inputs=inputs, dynamic=dynamic, outputs=("sum",))
