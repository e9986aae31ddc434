"""Exported programs give what their modules give, at sizes that export did not see."""

import dataclasses
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from data.contract.schema import Feature, Vocabulary
from models.export import Program, parity, write_programs
from models.sequence_encoder import SequenceSettings
from models.two_tower import TwoTower, TwoTowerSettings
from serve.programs import Program as ServedProgram
from torch import Tensor, nn

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
SETTINGS = TwoTowerSettings(
    dim=8, id_dim=8, hidden=16, sequence=SequenceSettings(max_length=MAX_LENGTH, num_layers=1)
)
ITEMS = "items"


def item_inputs(num_items: int, num_tags: int) -> dict[str, Tensor]:
    """Random items; all tags are those of the last one."""
    lengths = torch.zeros(num_items, dtype=torch.int64)
    lengths[-1] = num_tags
    return {
        "item_id.rows": torch.randn(num_items, SETTINGS.id_dim),
        "item.age": torch.randn(num_items).masked_fill(torch.rand(num_items) < 0.2, torch.nan),
        "item.format": torch.randint(0, 99, (num_items,)),
        "item.tags.values": torch.randint(0, 99, (num_tags,)),
        "item.tags.lengths": lengths,
        "item.content": torch.randn(num_items, 6),
    }


def user_inputs(lengths: list[int]) -> dict[str, Tensor]:
    """Random users with histories of `lengths`."""
    num_users, num_events = len(lengths), sum(lengths)
    return {
        "user_id.rows": torch.randn(num_users, SETTINGS.id_dim),
        "user.country": torch.randint(0, 99, (num_users,)),
        "history.embedding.rows": torch.randn(num_events, SETTINGS.dim),
        "history.action": torch.randint(0, 3, (num_events,)),
        "history.surface": torch.randint(0, 2, (num_events,)),
        "history.gap_ms": torch.randint(0, 10**10, (num_events,)),
        "history.lengths": torch.tensor(lengths),
    }


def towers() -> dict[str, Program]:
    torch.manual_seed(0)
    model = TwoTower(SETTINGS, VOCABULARY)  # In training mode, as it is when training ends.
    items, users = item_inputs(5, 7), user_inputs([5, 0, 3])
    of_events = {name for name in users if name.startswith("history.")} - {"history.lengths"}
    return {
        "item_tower": Program(
            module=model.item_tower,
            inputs=items,
            dynamic=dict.fromkeys(items, ITEMS) | {"item.tags.values": "item.tags.values"},
            outputs=("embedding",),
        ),
        "user_tower": Program(
            module=model.user_tower,
            inputs=users,
            dynamic=dict.fromkeys(users, "batch") | dict.fromkeys(of_events, "events"),
            outputs=("embedding",),
        ),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Program], Path]:
    folder = tmp_path_factory.mktemp("export") / "programs"
    programs = towers()
    for name, program in programs.items():  # One at a time: the listing has to keep both.
        write_programs({name: program}, folder)
    return programs, folder


def served(folder: Path, name: str) -> ServedProgram:
    return ServedProgram(folder / f"{name}.onnx")


@pytest.mark.parametrize("num_tags", [0, 1, 2, 700])
@pytest.mark.parametrize("num_items", [1, 2, 3, 499, 500, 1024])
def test_the_served_item_tower_equals_the_module(
    written: tuple[dict[str, Program], Path], num_items: int, num_tags: int
) -> None:
    programs, folder = written
    inputs = item_inputs(num_items, num_tags)
    tower = served(folder, "item_tower")
    assert parity(programs["item_tower"], tower, inputs) < TOLERANCE


@pytest.mark.parametrize(
    "lengths",
    [[0], [1], [2], [MAX_LENGTH], [0, 0], [0, 1], [3, 0, 5], [0] * 7]
    + [[i % (MAX_LENGTH + 1) for i in range(batch)] for batch in (499, 500, 1024)],
    ids=lambda lengths: f"{len(lengths)}_users_{sum(lengths)}_events",
)
def test_the_served_user_tower_equals_the_module(
    written: tuple[dict[str, Program], Path], lengths: list[int]
) -> None:
    programs, folder = written
    tower = served(folder, "user_tower")
    assert parity(programs["user_tower"], tower, user_inputs(lengths)) < TOLERANCE


def test_the_torch_file_equals_the_module(written: tuple[dict[str, Program], Path]) -> None:
    programs, folder = written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(folder / "user_tower.pt2").module()
    inputs = user_inputs([2, 0, 0, 9, 1])
    expected = programs["user_tower"].module.eval()(inputs)
    assert torch.allclose(module(inputs), expected, atol=TOLERANCE)


def test_the_listing_holds_every_program_with_symbolic_sizes(
    written: tuple[dict[str, Program], Path],
) -> None:
    listing = json.loads((written[1] / "programs.json").read_text())
    assert set(listing) == {"item_tower", "user_tower"}
    inputs = {entry["name"]: entry for entry in listing["user_tower"]["inputs"]}
    assert inputs["history.gap_ms"] == {
        "name": "history.gap_ms",
        "dtype": "int64",
        "shape": ["events"],
    }
    assert inputs["user_id.rows"]["shape"] == ["batch", SETTINGS.id_dim]
    assert listing["item_tower"]["outputs"] == [
        {"name": "embedding", "dtype": "float32", "shape": [ITEMS, SETTINGS.dim]}
    ]


def test_the_files_read_and_give_what_the_listing_says(
    written: tuple[dict[str, Program], Path],
) -> None:
    programs, folder = written
    listing = json.loads((folder / "programs.json").read_text())
    for name, program in programs.items():
        file = served(folder, name)
        assert list(file.inputs) == [entry["name"] for entry in listing[name]["inputs"]]
        assert file.outputs == program.outputs


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


def scores(num_items: int) -> Program:
    codes = {name: torch.randint(0, 9, (num_items,)) for name in ("b.codes", "a.codes", "unread")}
    return Program(
        module=Scores(),
        inputs=codes | {"state": torch.randn(1, 4)},
        dynamic=dict.fromkeys(codes, ITEMS),
        outputs=("embedding", "mul"),
    )


def test_arrays_keep_their_names_whatever_torch_calls_them(tmp_path: Path) -> None:
    program = scores(5)
    write_programs({"scores": program}, tmp_path)
    file = served(tmp_path, "scores")
    assert set(file.inputs) == {"b.codes", "a.codes", "unread", "state"}
    assert file.outputs == ("embedding", "mul")
    for num_items in (0, 1, 1024):
        assert parity(program, file, scores(num_items + 3).inputs) < TOLERANCE


def test_writing_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_programs({"scores": scores(4)}, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_written_module_goes_on_training(tmp_path: Path) -> None:
    program = scores(4)
    write_programs({"scores": program}, tmp_path)
    assert program.module.training
    assert all(parameter.requires_grad for parameter in program.module.parameters())


class Fixed(nn.Module):
    """Works for three items only, and does not say so."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["rows"] + torch.ones(3, 1)


class Compared(nn.Module):
    """Needs as many users as items."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["rows"].sum(-1) + inputs["users"]


def test_a_program_that_fixes_a_dynamic_size_is_refused(tmp_path: Path) -> None:
    program = Program(
        module=Fixed(),
        inputs={"rows": torch.randn(3, 2)},
        dynamic={"rows": ITEMS},
        outputs=("sum",),
    )
    with pytest.raises(ValueError, match=r"program fixed works for the sizes of its example alone"):
        write_programs({"fixed": program}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_between_module_and_file_is_seen(tmp_path: Path) -> None:
    program = scores(4)
    write_programs({"scores": program}, tmp_path)
    other = dataclasses.replace(program, module=Scores())
    assert parity(other, served(tmp_path, "scores"), program.inputs) > 0.1


@pytest.mark.parametrize("num_items", [1, 2])
def test_examples_that_export_takes_for_constants_are_refused(num_items: int) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        scores(num_items)


@pytest.mark.parametrize("sizes", [(4, 4), (4, 5, 6)], ids=["two_alike", "one_with_two_sizes"])
def test_examples_that_mix_dimensions_up_are_refused(sizes: tuple[int, ...]) -> None:
    inputs = {f"input{i}": torch.randn(size) for i, size in enumerate(sizes)}
    dynamic = {f"input{i}": ("items", "users")[i % 2] for i in range(len(sizes))}
    with pytest.raises(ValueError, match="a size of its own|one size of its own"):
        Program(module=Compared(), inputs=inputs, dynamic=dynamic, outputs=("sum",))
