"""Bad input ends a command with code 2 and the way out, before Ray starts; a few rows do not."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from ray_jobs import pipeline, prepare
from ray_jobs.engine.job import run
from tests.e2e.processes import finish, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.e2e

DAY_MS = 86_400_000
SIZE, USERS, ITEMS, DAYS = 3000, 60, 200, 40
Columns = dict[str, Any]


def log() -> Columns:
    """40 days of 60 users and 200 items, by time."""
    rng = np.random.default_rng(0)
    return {
        "user_id": rng.integers(1, USERS + 1, SIZE),
        "item_id": rng.integers(1, ITEMS + 1, SIZE),
        "action": rng.choice(["click", "save"], SIZE),
        "rating": rng.integers(1, 6, SIZE),
        "timestamp": np.sort(rng.integers(0, DAYS * DAY_MS, SIZE)) + 20_000 * DAY_MS,
    }


LOG = log()
TEXT_IDS = np.char.add("i", LOG["item_id"].astype(str))
MIXED_IDS = np.where(np.arange(SIZE) % 3 == 0, TEXT_IDS, LOG["item_id"].astype(str))
TWO_ITEM_ROWS = {"item_id": [1, 2, 3, 2], "genre": ["a", "b", "c", "d"]}
COLUMN = ("split.kind=column", "split.column=split")


def write(path: Path, columns: Columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: values for name, values in columns.items() if values is not None})
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=500)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good log, and the files and folders that the cases name."""
    folder = tmp_path_factory.mktemp("logs")
    whole = write(folder / "good.parquet", LOG).read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "damaged.parquet").write_bytes(whole[:200] + bytes(300) + whole[500:])
    (folder / "nothing.parquet").touch()
    (folder / "nothing.csv").touch()
    write(folder / "no_rows.parquet", {name: values[:0] for name, values in LOG.items()})
    write(folder / "two_items.parquet", TWO_ITEM_ROWS)
    write(folder / "types" / "a.parquet", LOG)
    write(folder / "types" / "b.parquet", LOG | {"item_id": TEXT_IDS})
    write(folder / "names" / "a.csv", LOG)
    write(folder / "names" / "b.csv", LOG | {"item_id": None, "film": LOG["item_id"]})
    return folder


@pytest.fixture
def error_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path, list[str]], str]:
    """Runs the pipeline on a log as `python -m` would; it must end with code 2, without Ray."""

    def started(num_cpus: int = 0) -> NoReturn:
        raise AssertionError("Ray was started")

    def error(events: Path, words: list[str]) -> str:
        given = [f"root={tmp_path / 'root'}", "source.kind=table", f"source.events={events}"]
        monkeypatch.setattr(sys, "argv", ["pipeline", *given, *words])
        with pytest.raises(SystemExit) as end:
            run("pipeline", pipeline.main, pipeline.PipelineArguments, remember=True)
        captured = capsys.readouterr()
        assert (end.value.code, captured.out) == (2, "")
        assert not (tmp_path / "root" / "settings.yaml").exists()
        (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        return line

    monkeypatch.setattr(pipeline, "connect", started)
    monkeypatch.setattr("ray_jobs.preparation.block_tasks.connect", started)
    return error


@pytest.mark.parametrize(
    ("name", "words", "parts"),
    [
        ("absent.parquet", [], ["source.events=", "absent.parquet does not exist"]),
        ("nothing.parquet", [], ["nothing.parquet", "0 bytes"]),
        ("nothing.csv", [], ["nothing.csv is empty"]),
        ("no_rows.parquet", [], ["no_rows.parquet is empty"]),
        ("cut.parquet", [], ["cut.parquet is not a readable Parquet file"]),
        ("damaged.parquet", [], ["damaged.parquet is damaged", "write it again"]),
        ("types", [], ["item_id", "int64 in", "a.parquet", "string in", "b.parquet", "one type"]),
        ("names", [], ["b.csv has no column item_id", "film", "source.columns.item_id="]),
        ("good.parquet", ["train.max_step=5"], ["did you mean train.max_steps?"]),
        ("good.parquet", ["two_tower.id_dropout=1.5"], ["two_tower.id_dropout", "less than 1"]),
        ("good.parquet", ["train.max_steps=many"], ["train.max_steps", "integer", "'many'"]),
        ("good.parquet", ["source.columns.item_id=film"], ["no table has the column film"]),
        ("good.parquet", ["source.columns.itemid=item_id"], ["mean source.columns.item_id?"]),
        ("good.parquet", ["source.polarity.buy=positive"], ["no such action", "click, save"]),
        ("good.parquet", ["source.actions.like=stars>=4"], ["column stars", "good.parquet"]),
        ("good.parquet", ["source.actions.like=rating>=9"], ["no row fulfils", "rating>=9"]),
        ("good.parquet", ["source.actions.like=rating>="], ["source.actions.like", "missing"]),
        ("good.parquet", [*COLUMN], ["column split", "good.parquet does not have", "timestamp"]),
        ("good.parquet", ["source.items={folder}/two_items.parquet"],
         ["id 2 is there twice", "two_items.parquet row 1", "two_items.parquet row 3"]),
        ("good.parquet", ["root={folder}/good.parquet/root"], ["cannot be written", "is a file"]),
    ],
)  # fmt: skip
def test_files_and_settings_that_cannot_be_used_are_explained(
    folder: Path,
    error_of: Callable[[Path, list[str]], str],
    name: str,
    words: list[str],
    parts: list[str],
) -> None:
    error = error_of(folder / name, [word.format(folder=folder) for word in words])
    assert [part for part in parts if part not in error] == [], error


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    ("change", "words", "parts"),
    [
        ({"item_id": None}, [], ["no column item_id", "source.columns.item_id=<column>"]),
        ({"user_id": None, "userId": LOG["user_id"]}, [],
         ["(did you mean userId?)", "source.columns.user_id=userId"]),
        ({"item_id": LOG["item_id"] + 0.5}, [], ["column item_id of", "whole"]),
        ({"item_id": MIXED_IDS}, [], ["33% other text", "in row 0", "source.text_ids=true"]),
        ({"rating": ["good"] * SIZE}, ["source.actions.like=rating>=4"],
         ["column rating of", "not a number (such as 'good' in row 0)"]),
        ({"timestamp": ["noon"] * SIZE}, [], ["column timestamp of", "'noon' in row 0"]),
        ({"timestamp": LOG["timestamp"] // 1000}, [], ["seconds; set source.timestamp_unit=s"]),
        ({"timestamp": LOG["timestamp"] % DAY_MS + 20_000 * DAY_MS}, [], ["spans 1 days"]),
        ({"user_id": [7] * SIZE}, [], ["1 user(s), at least 2", "source.columns.user_id"]),
        ({"item_id": [7] * SIZE}, [], ["1 item(s), at least 2", "source.columns.item_id"]),
        ({"timestamp": None}, [], ["split.kind=time needs a clock", "split.kind=column"]),
        ({"timestamp": None, "ts": LOG["timestamp"]}, [], ["source.columns.timestamp=ts"]),
        ({"split": ["early"] * SIZE}, [*COLUMN], ["column split of", "train, valid", "'early'"]),
        ({"split": ["train"] * SIZE}, [*COLUMN], ["names only train"]),
    ],
)  # fmt: skip
def test_logs_that_cannot_be_used_are_explained(
    tmp_path: Path,
    error_of: Callable[[Path, list[str]], str],
    suffix: str,
    change: Columns,
    words: list[str],
    parts: list[str],
) -> None:
    error = error_of(write(tmp_path / f"log{suffix}", LOG | change), words)
    assert [part for part in parts if part not in error] == [], error


EDGES = {"board_id": np.arange(100) % 9, "item_id": LOG["item_id"][:100], "weight": np.ones(100)}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"item_id": np.arange(100) + 1000}, ["100 of 100 rows", "no item of the log", "row 0"]),
        ({"weight": -np.ones(100)}, ["100 of 100 rows", "weight negative: 100", "weight='-1.0'"]),
        ({"weight": np.arange(100) % 10}, ["10 of 100 rows", "weight 0: no edge: 10"]),
        ({"weight": [True] * 100}, ["column weight of", "is bool, not numbers"]),
        ({"board_id": None}, ["edges.parquet has no column board_id"]),
    ],
)
def test_boards_that_cannot_be_used_are_explained(
    folder: Path,
    tmp_path: Path,
    error_of: Callable[[Path, list[str]], str],
    change: Columns,
    parts: list[str],
) -> None:
    edges = write(tmp_path / "edges.parquet", EDGES | change)
    error = error_of(folder / "good.parquet", [f"source.boards={edges}"])
    assert [part for part in parts if part not in error] == [], error


def broken(suffix: str) -> tuple[Columns, set[tuple[int, str, str]]]:
    """A log of which 1% of the rows cannot be used; row, column and reason of each."""
    columns: dict[str, list[Any]] = {name: values.tolist() for name, values in LOG.items()}
    late = "not a number" if suffix == ".csv" else "not between 1990 and 2100"
    expected = set()
    for n in range(0, SIZE, 300):
        columns["user_id"][n] = columns["item_id"][n + 1] = None
        expected |= {(n, "user_id", "null"), (n + 1, "item_id", "null")}
        columns["timestamp"][n + 2] = "noon" if suffix == ".csv" else -1
        expected.add((n + 2, "timestamp", late))
    if suffix == ".csv":
        columns["item_id"] = [None if i is None else str(i) for i in columns["item_id"]]
        columns["timestamp"] = [str(time) for time in columns["timestamp"]]
        columns["item_id"][5] = "[7]"
        expected.add((5, "item_id", "not a whole number"))
    return columns, expected


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_one_percent_of_broken_rows_is_set_aside_and_counted(
    tmp_path: Path, monkeypatch, capsys, suffix: str
) -> None:
    columns, expected = broken(suffix)
    path, root = write(tmp_path / f"log{suffix}", columns), tmp_path / "root"
    words = [f"root={root}", "source.kind=table", f"source.events={path}"]
    monkeypatch.setattr(sys, "argv", ["prepare", *words])
    run("prepare", prepare.main, remember=True)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    files = list((root / "rejects" / summary["dataset"]).glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert {(row["row"], row["column"], row["reason"]) for row in rows} == expected
    assert {row["file"] for row in rows} == {str(path)}
    assert summary["counts"]["rejected"] == len(rows) == len(expected)
    assert summary["counts"]["events"] == SIZE - len(expected)


@pytest.mark.timeout(120)
def test_as_processes_a_mistake_ends_with_code_2_and_is_mended_by_what_it_says(
    folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "log.parquet", LOG | {"timestamp": LOG["timestamp"] // 1000})
    words = (f"root={tmp_path / 'root'}", "source.kind=table", f"source.events={path}")
    process = start("pipeline", *words)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.splitlines()[-1].endswith("set source.timestamp_unit=s")
    assert "Traceback" not in err
    assert finish(start("prepare", *words, "source.timestamp_unit=s"), 60)["counts"] == {
        "events": SIZE, "new_events": SIZE, "users": USERS, "items": ITEMS, "impressions": 0,
        "rejected": 0}  # fmt: skip
