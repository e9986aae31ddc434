"""Prepare as a whole: small logs written to files, prepared, and read back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from data.boards import UNKNOWN_ITEM
from data.contract.artifact import current
from data.contract.mirrors import PLACE
from data.contract.schema import DAY_MS, Calendar
from data.contract.settings import UserError
from data.dataset import Dataset
from data.graph.edges import board_edges, board_files
from data.partitions import write_days
from data.raw_tables import FileSet, RawTables
from data.sources import locate
from data.splits import PARTS_KEY
from ray_jobs.engine.job import Job, run, start
from ray_jobs.engine.locks import turn
from ray_jobs.preparation import placement
from ray_jobs.preparation.served import Taken
from ray_jobs.prepare import main, prepare
from tests.data.user_events import events_of

FIRST_MS = 20_000 * DAY_MS
NUM_USERS, NUM_ITEMS, DAYS = 40, 60, 30
Rows = list[dict[str, Any]]


def log(size: int = 2000, seed: int = 0, days: tuple[int, int] = (1, DAYS)) -> Rows:
    """Events by time: hashed user ids, string items, three actions."""
    rng = np.random.default_rng(seed)
    span = (days[1] - days[0] + 1) * DAY_MS
    times = np.sort(rng.integers(0, span, size)) + FIRST_MS + (days[0] - 1) * DAY_MS
    times[[0, -1]] = FIRST_MS + (days[0] - 1) * DAY_MS, FIRST_MS + days[1] * DAY_MS - 1
    users, items = rng.integers(NUM_USERS, size=size), rng.integers(NUM_ITEMS, size=size)
    actions = rng.choice(["click", "hide", "save"], size)
    return [
        {
            "event_id": seed * 1_000_000 + n,
            "user_id": int(u) * 7919 - 50_000,
            "item_id": f"item-{i}",
            "action": str(a),
            "surface": "search" if i % 3 else "home",
            "timestamp": int(t),
            "received_at": int(t) + 500,
            "duration_s": float(i),
        }
        for n, (u, i, a, t) in enumerate(zip(users, items, actions, times, strict=True))
    ]


def write(path: Path, rows: Rows, **types: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=333)
    return path


def job_of(root: Path, *words: str) -> Job:
    return start([f"root={root}", "source.kind=table", "prepare.shard_events=400", *words])


def prepared(root: Path, events: Path, *words: str) -> Dataset:
    job = job_of(root, f"source.events={events}", *words)
    return Dataset(prepare(job, locate(job.settings.source)), root)


def posted(rows: Rows, path: Path) -> FileSet:
    return FileSet(files=(write(path, rows),))


def next_day(dataset: Dataset, raw: RawTables, taken: Taken | None = None, *words: str) -> Dataset:
    job = job_of(dataset.root, "source.events=unused", *words)
    return Dataset(prepare(job, raw, dataset.artifact, taken), dataset.root)


def timelines(dataset: Dataset) -> dict[Any, list[tuple[Any, ...]]]:
    """External user id -> (item id, action, surface, timestamp, duration) of each event."""
    names = ("", *dataset.vocabulary.actions), ("", *dataset.vocabulary.surfaces)
    found = {}
    for table in dataset.timelines():
        users = dataset.user_ids.external(table["user"].to_numpy()).to_pylist()
        for user, row in zip(users, table.to_pylist(), strict=True):
            items = dataset.item_ids.external(np.array(row["item"])).to_pylist()
            actions = [names[0][a] for a in row["action"]]
            surfaces = [names[1][s] for s in row["surface"]]
            rest = (row["timestamp"], row["duration_s"])
            assert user not in found
            found[user] = list(zip(items, actions, surfaces, *rest, strict=True))
    return found


def expected_timelines(rows: Rows) -> dict[Any, list[tuple[Any, ...]]]:
    names = ("item_id", "action", "surface", "timestamp", "duration_s")
    users = {row["user_id"] for row in rows}
    mine = {user: [r for r in rows if r["user_id"] == user] for user in users}
    return {
        user: [
            tuple(row[n] for n in names) for row in sorted(of_user, key=lambda r: r["timestamp"])
        ]
        for user, of_user in mine.items()
    }


def stored_events(dataset: Dataset) -> pa.Table:
    folders = dataset.partition_folders("events").values()
    files = [file for folder in folders for file in folder.glob("*.parquet")]
    return pa.concat_tables(pq.ParquetFile(f).read() for f in files).sort_by("event_id")


def rejects(dataset: Dataset) -> Rows:
    folder = dataset.root / "rejects" / dataset.artifact.version
    return [
        row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]


def checksums(dataset: Dataset) -> dict[str, str]:
    return dataset.artifact.manifest.checksums


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A prepared log of 30 days with two files."""
    folder = tmp_path_factory.mktemp("first")
    rows = log()
    write(folder / "log" / "a.parquet", rows[:1200])
    write(folder / "log" / "b.parquet", rows[1200:])
    return prepared(folder / "root", folder / "log")


@pytest.fixture
def copy(first: Dataset, tmp_path: Path) -> Dataset:
    """The same in a root of its own, for a next day."""
    shutil.copytree(first.root, tmp_path / "root")
    return Dataset.open(tmp_path / "root")


def test_timelines_hold_every_event_of_every_user_in_order(first: Dataset) -> None:
    assert timelines(first) == expected_timelines(log())


def test_users_are_spread_over_files_each_in_one(first: Dataset) -> None:
    assert len(first.timeline_files) == first.details["num_shards"] == 5
    users = [user for table in first.timelines() for user in table["user"].to_pylist()]
    assert len(users) == len(set(users)) == NUM_USERS


def test_day_partitions_hold_every_event_on_its_day_by_time(first: Dataset) -> None:
    rows = log()
    assert stored_events(first)["event_id"].to_pylist() == [row["event_id"] for row in rows]
    for day in (1, 15, DAYS):
        (file,) = first.event_files(day, day)
        times = pq.ParquetFile(file).read()["timestamp"].to_pylist()
        start = FIRST_MS + (day - 1) * DAY_MS
        expected = [r["timestamp"] for r in rows if start <= r["timestamp"] < start + DAY_MS]
        assert times == expected


def test_items_are_counted_by_day_and_action(first: Dataset) -> None:
    assert_counted(first)


def assert_counted(dataset: Dataset) -> None:
    """Each event counts for its day, item and action; sorted."""
    table = pq.read_table(dataset.artifact.path / "item_days.parquet")
    events = stored_events(dataset)
    day = (events["timestamp"].to_numpy() - FIRST_MS) // DAY_MS + 1
    keys = np.stack([day, events["item"].to_numpy(), events["action"].to_numpy()], axis=1)
    expected, count = np.unique(keys, axis=0, return_counts=True)
    found = np.stack([table[n].to_numpy() for n in ("day", "item", "action")], axis=1)
    assert (found == expected).all()
    assert (table["count"].to_numpy() == count).all()


def test_the_manifest_says_what_is_in_it(first: Dataset) -> None:
    assert first.counts == {
        "events": 2000, "new_events": 2000, "users": NUM_USERS, "items": NUM_ITEMS,
        "impressions": 0, "rejected": 0}  # fmt: skip
    assert first.vocabulary.actions == ("click", "hide", "save")
    assert first.vocabulary.polarity == ("positive", "negative", "positive")
    assert first.vocabulary.surfaces == ("home", "search")
    assert first.calendar is not None
    assert (first.calendar.first_day_ms, first.calendar.num_days) == (FIRST_MS, DAYS)
    kinds = [parent["kind"] for parent in first.artifact.manifest.parents]
    assert kinds == ["item_ids", "user_ids"]
    first.artifact.verify()
    assert not (first.root / ".work").exists() or not list((first.root / ".work").iterdir())


def test_blocks_cover_all_timelines_and_events_are_found_by_user(first: Dataset) -> None:
    blocks = first.blocks
    assert first.blocks is blocks  # every task looks its block up
    assert sum(block.num_rows for block in blocks) == NUM_USERS
    users = np.array([block.read(["user"])["user"][0].as_py() for block in blocks])
    events = events_of(first, np.append(users, [0, first.user_ids.rows + 5]))
    for number, block in enumerate(blocks):
        here = slice(events.offsets[number], events.offsets[number + 1])
        assert events.item[here].tolist() == block.read(["item"])["item"][0].as_py()
    assert events.lengths[-2:].tolist() == [0, 0]
    twice = events_of(first, users[[3, 0, 3]])
    assert twice.lengths.tolist() == events.lengths[[3, 0, 3]].tolist()
    assert twice.cut(twice.offsets[2:3], twice.lengths[2:]).item.tolist() == (
        twice.item[: twice.offsets[1]].tolist()
    )
    assert events_of(first, np.array([0])).lengths.tolist() == [0]
    assert not len(events_of(first, users[:0]).lengths)


def test_files_rows_and_formats_do_not_matter_only_the_log_does(
    first: Dataset, tmp_path: Path
) -> None:
    csv = prepared(tmp_path / "csv", write(tmp_path / "log.csv", log()), "prepare.block_rows=77")
    assert timelines(csv) == timelines(first)
    assert stored_events(csv)["event_id"].equals(stored_events(first)["event_id"])
    assert csv.item_ids.ids.equals(first.item_ids.ids)
    assert csv.user_ids.ids.equals(first.user_ids.ids)


@pytest.mark.ray
def test_ray_data_and_this_process_write_the_same_bytes(
    first: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("log") / "a.parquet", log())
    words = ("prepare.in_process_rows=0", "prepare.block_rows=150")
    spread = prepared(Path("root"), Path("log"), *words)
    assert checksums(spread) == checksums(first)


@pytest.mark.ray
def test_a_damaged_file_is_told_alike_from_tasks_and_from_this_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ray_cluster: None,
) -> None:
    monkeypatch.setattr("data.intake.PROBE_ROWS", 150)  # which this process always reads
    events = write(tmp_path / "a.parquet", log())
    column = pq.ParquetFile(events).metadata.row_group(1).column(1)
    content = bytearray(events.read_bytes())
    start_at = column.dictionary_page_offset or column.data_page_offset
    content[start_at : start_at + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    events.write_bytes(content)
    told = []
    for rows in (0, 1_000_000):
        words = [
            f"root={tmp_path / str(rows)}",
            "source.kind=table",
            f"source.events={events}",
            f"prepare.in_process_rows={rows}",
            "prepare.block_rows=150",
        ]
        monkeypatch.setattr("sys.argv", ["prepare", *words])
        with pytest.raises(SystemExit) as ended:
            run("prepare", main, remember=True)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        told.append(said[said.index("error: ") :])
    assert told[0] == told[1]
    assert told[0].startswith(f"error: {events} is damaged: ")
    assert told[0].endswith("; write it again\n")


def test_string_views_are_read_as_strings(tmp_path: Path) -> None:
    rows = log(300)
    items = [{"item_id": f"item-{n}", "kind": "ab"[n % 2], "tags": ["x"]} for n in range(NUM_ITEMS)]
    bad = rows[0] | {"event_id": -1, "action": None}
    found = []
    for kind in (pa.string(), pa.string_view()):
        folder = tmp_path / str(kind)
        names = dict.fromkeys(("item_id", "action", "surface"), kind)
        events = write(folder / "a.parquet", [*rows, bad], **names)
        of = write(folder / "i.parquet", items, item_id=kind, kind=kind, tags=pa.list_(kind))
        found.append(prepared(folder / "root", events, f"source.items={of}"))
    assert timelines(found[0]) == timelines(found[1]) == expected_timelines(rows)
    assert found[0].vocabulary == found[1].vocabulary
    assert [f.name for f in found[1].vocabulary.item_features] == ["kind", "tags"]
    assert len(rejects(found[1])) == 1


def test_a_prepared_log_is_not_prepared_again(first: Dataset) -> None:
    manifest = first.artifact.path / "manifest.json"
    written = manifest.stat().st_mtime_ns
    raw = job_of(first.root, f"source.events={first.root.parent / 'log'}")
    again = prepare(raw, locate(raw.settings.source))
    assert again.version == first.artifact.version
    assert manifest.stat().st_mtime_ns == written


def test_a_run_that_was_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch) -> None:
    events = write(tmp_path / "a.parquet", log())
    whole = prepared(tmp_path / "whole", events)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for step in ("passes.route", "placement.place", "placement.place_impressions"):
        with monkeypatch.context() as patch:
            patch.setattr(f"ray_jobs.prepare.{step}", killed)
            with pytest.raises(KeyboardInterrupt):
                prepared(tmp_path / "root", events)
        with pytest.raises(UserError, match="no dataset yet"):
            Dataset.open(tmp_path / "root")
    assert checksums(prepared(tmp_path / "root", events)) == checksums(whole)


def test_what_killed_runs_have_spilled_is_removed_and_nothing_of_those_that_run(
    tmp_path: Path,
) -> None:
    events, root = write(tmp_path / "a.parquet", log()), tmp_path / "root"
    killed, running = (root / ".work" / f"prepare-{name}" for name in ("killed", "running"))
    for folder in (killed, running):
        folder.mkdir(parents=True)
        (folder / "spilled.arrow").touch()
    with turn(root, "dataset-running"):
        prepared(root, events)
        assert [file.name for file in running.iterdir()] == ["spilled.arrow"]
    assert not killed.exists()
    prepared(root, events)
    assert list((root / ".work").iterdir()) == []


def test_one_percent_broken_rows_are_set_aside_with_their_reasons(tmp_path: Path) -> None:
    rows = log()
    for n in range(0, 2000, 200):
        rows[n] = rows[n] | {"item_id": None}
        rows[n + 1] = rows[n + 1] | {"timestamp": 12}
    rows[500] = rows[501]
    dataset = prepared(tmp_path / "root", write(tmp_path / "a.parquet", rows))
    found = rejects(dataset)
    assert dataset.counts["events"] == 2000 - 21
    assert dataset.counts["rejected"] == len(found) == 21
    reasons = {(r["column"], r["reason"]) for r in found}
    assert reasons == {
        ("item_id", "null"), ("timestamp", "not between 1990 and 2100"), ("event_id", "duplicate")
    }  # fmt: skip
    places = sorted(r["row"] for r in found)
    assert places == sorted([*range(0, 2000, 200), *range(1, 2000, 200), 501])
    assert {Path(r["file"]).name for r in found} == {"a.parquet"}


def test_too_many_broken_rows_stop_the_job_and_are_listed(tmp_path: Path) -> None:
    rows = [
        row | {"item_id": None if n % 5 == 0 else row["item_id"]} for n, row in enumerate(log())
    ]
    message = r"400 of 2000 .*share=0.05.*item_id null: 400.*a.parquet row 0: item_id=None"
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "root", write(tmp_path / "a.parquet", rows))
    files = list((tmp_path / "root" / "rejects").rglob("*.parquet"))
    assert sum(pq.read_metadata(f).num_rows for f in files) == 400


def test_what_is_rejected_lies_where_the_root_does_and_is_named_by_its_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    rows = log()
    rows[7] = rows[7] | {"item_id": None}
    write(tmp_path / "logs" / "a.parquet", rows)
    root, log_uri = f"file://{tmp_path}/root", f"file://{tmp_path}/logs/a.parquet"
    job = start([f"root={root}", "source.kind=table", f"source.events={log_uri}"])
    made = prepare(job, locate(job.settings.source))
    (file,) = (tmp_path / "root" / "rejects" / made.version).iterdir()
    assert pq.read_table(file).to_pylist()[0] | {"row": 7} == {
        "file": log_uri, "row": 7, "column": "item_id", "reason": "null", "value": None
    }  # fmt: skip
    write(tmp_path / "logs" / "a.parquet", [row | {"item_id": None} for row in rows[:200]] + rows)
    with pytest.raises(UserError) as told:
        prepare(job, locate(job.settings.source))
    assert f"such as {log_uri} row 0" in str(told.value)
    listed = Path(str(told.value).partition(f"listed in {root}/")[2])
    assert len(list((tmp_path / "root" / listed).iterdir())) == 1
    assert "homefeed-mirror" not in str(told.value)


def seconds(rows: Rows) -> Rows:
    return [row | {"timestamp": row["timestamp"] // 1000, "received_at": None} for row in rows]


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda rows: [{"user": r["user_id"], "item_id": "a", "timestamp": 1} for r in rows], [],
         r"no column user_id .*source.columns.user_id=user"),
        (lambda rows: rows, ["source.columns.item_id=movie"], "no table has the column movie"),
        (lambda rows: [r | {"item_id": 1.5} for r in rows], [], "item_id of .*a.parquet is double"),
        (lambda rows: [r | {"user_id": [1]} for r in rows], [], "user_id of .* is list"),
        (lambda rows: [r | {"timestamp": "noon"} for r in rows], [],
         "most values of column timestamp .*not a number"),
        (lambda rows: [r | {"timestamp": True} for r in rows], [], "timestamp of .* is bool"),
        (seconds, [], "look like seconds; set source.timestamp_unit=s"),
        (lambda rows: [r | {"user_id": 1} for r in rows], [], r"1 user\(s\), at least 2"),
        (lambda rows: [r | {"item_id": "a"} for r in rows], [], r"1 item\(s\), at least 2"),
        (lambda rows: rows[:50], ["split.kind=column", "split.column=split"],
         "names the column split, which .*a.parquet does not have"),
        (lambda rows: [r | {"rating": 3} for r in rows], ["source.actions.like=rating>=4"],
         "none of the 300 rows of .*a.parquet gives an event: no row fulfils source.actions.like"),
        (lambda rows: [r | {"rating": 3} for r in rows], ["source.actions.like=rating=='good'"],
         "source.actions.like=rating=='good': an action compares int64 and string"),
        (lambda rows: [r | {"rating": "good"} for r in rows], ["source.actions.like=rating>=4"],
         r"column rating of .*a.parquet .*not a number \(such as 'good' in row 0\)"),
        (lambda rows: rows, ["source.actions.like=stars>=4"], "names the column stars, which"),
        (lambda rows: [r | {"action": "hide"} for r in rows], [], "no action .* positive"),
        (lambda rows: [r | {"split": "train"} for r in rows],
         ["split.kind=column", "split.column=split"], "names only train"),
        (lambda rows: [{k: v for k, v in r.items() if k != "timestamp"} for r in rows], [],
         "split.kind=time needs a clock"),
        (lambda rows: rows, ["source.features.colour=numeric"], "features.colour"),
        (lambda rows: rows, ["source.polarity.sav=neutral"], "polarity.sav"),
        (lambda rows: [r for r in rows if r["timestamp"] < FIRST_MS + 3 * DAY_MS], [],
         "the log spans 3 days"),
    ],
)  # fmt: skip
def test_bad_input_is_explained(
    tmp_path: Path, change: Callable[[Rows], Rows], words: list[str], message: str
) -> None:
    path = write(tmp_path / "a.parquet", change(log(300)))
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "root", path, *words)


@pytest.mark.parametrize("name", ["empty.parquet", "header.csv", "nothing.csv"])
def test_an_empty_log_is_explained(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(log(2)).slice(0, 0), path)
    else:
        path.write_text("user_id,item_id,timestamp\n" if name == "header.csv" else "")
    with pytest.raises(UserError, match="is empty"):
        prepared(tmp_path / "root", path)


def test_duplicate_item_rows_are_explained(tmp_path: Path) -> None:
    items = write(tmp_path / "i.parquet", [{"item_id": "item-1"}, {"item_id": "item-1"}])
    events = write(tmp_path / "a.parquet", log(300))
    with pytest.raises(UserError, match=r"item-1 is there twice: .*row 0 and .*row 1"):
        prepared(tmp_path / "root", events, f"source.items={items}")


@pytest.mark.parametrize(
    ("role", "rows", "message"),
    [
        ("items", [{"item_id": 5.0}], "item_id of .*t.parquet is double"),
        ("items", [{"item_id": 5}, {"item_id": 6}], r"none of the 2 items .* item_id=5, the log i"),
        ("users", [{"user_id": "u1"}], r"most rows of .*t.parquet .* row 0 is 'u1' .* int64"),
        ("boards", [{"item_id": "item-1"}], "no column board_id"),
        ("boards", [{"board_id": 1.5, "item_id": "item-1"}], "board_id of .*t.parquet is double"),
        (
            "boards",
            [{"board_id": 1, "item_id": "item-1", "weight": [1.0]}],
            "weight of .*t.parquet is list.* not numbers",
        ),
        ("impressions", [{"item_id": "item-1"}], "no column request_id"),
        (
            "impressions",
            [
                {
                    "request_id": 1,
                    "user_id": 1,
                    "item_id": "item-1",
                    "timestamp": FIRST_MS,
                    "label.save": "yes",
                }
            ],
            "label save of .*t.parquet: .*yes; labels are true or false",
        ),
        (
            "impressions",
            [{"request_id": 1, "user_id": 1, "item_id": "item-1", "timestamp": FIRST_MS}],
            "t.parquet has no labels",
        ),
        ("content", [{"item_id": "item-1", "x": 1}], "one column of vectors"),
    ],
)
def test_bad_tables_beside_the_log_are_explained(
    tmp_path: Path, role: str, rows: Rows, message: str
) -> None:
    events, table = write(tmp_path / "a.parquet", log(300)), write(tmp_path / "t.parquet", rows)
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "root", events, f"source.{role}={table}")


def test_one_item_is_too_few_although_its_table_has_more(tmp_path: Path) -> None:
    events = write(tmp_path / "a.parquet", [r | {"item_id": "item-1"} for r in log(300)])
    items = write(tmp_path / "i.parquet", [{"item_id": "item-1"}, {"item_id": "item-2"}])
    with pytest.raises(UserError, match=r"1 item\(s\), at least 2"):
        prepared(tmp_path / "root", events, f"source.items={items}")


def test_ids_of_both_kinds_are_text_when_asked_for(tmp_path: Path) -> None:
    rows = [r | {"item_id": r["item_id"].removeprefix("item-" if n % 2 else "-")}
            for n, r in enumerate(log(300))]  # fmt: skip
    events = write(tmp_path / "a.parquet", rows)
    with pytest.raises(UserError, match=r"source\.text_ids=true"):
        prepared(tmp_path / "root", events)
    dataset = prepared(tmp_path / "root", events, "source.text_ids=true")
    assert set(dataset.item_ids.ids.to_pylist()) == {row["item_id"] for row in rows}
    assert dataset.user_ids.ids.type == pa.string()


def test_text_where_an_action_compares_a_number_is_rejected(tmp_path: Path) -> None:
    rows = [r | {"rating": "n/a" if n == 7 else "5"} for n, r in enumerate(log(300))]
    events = write(tmp_path / "a.csv", rows)
    dataset = prepared(tmp_path / "root", events, "source.actions.like=rating>=4")
    assert [(r["row"], r["column"], r["value"]) for r in rejects(dataset)] == [(7, "rating", "n/a")]
    assert dataset.counts["events"] == 299


def test_an_order_only_log_keeps_its_order_and_invents_no_time(tmp_path: Path) -> None:
    rows = [
        {"user_id": u, "item_id": (u * 7 + 3 * s) % 11, "seq": 9 - s, "timestamp": None}
        for s in range(10)
        for u in range(8)
    ]
    path = write(tmp_path / "a.parquet", rows, timestamp=pa.int64())
    words = ("source.columns.position=seq", "split.kind=leave_one_out")
    dataset = prepared(tmp_path / "root", path, *words)
    assert dataset.order == "position"
    assert dataset.calendar is None
    expected = {u: [(u * 7 + 3 * s) % 11 for s in reversed(range(10))] for u in range(8)}
    found = timelines(dataset)
    assert {user: [event[0] for event in events] for user, events in found.items()} == expected
    assert {event[3] for events in found.values() for event in events} == {0}
    with pytest.raises(UserError, match="no clock"):
        dataset.event_files(1, 1)
    assert sum(pq.read_metadata(f).num_rows for f in dataset.undated_files()) == 80


def test_pairs_with_parts_carry_them(tmp_path: Path) -> None:
    rows = [
        {"user_id": u, "item_id": i, "split": "test" if i % 5 == u % 5 else "train"}
        for u in range(9)
        for i in range(20)
    ]
    words = ("split.kind=column", "split.column=split")
    dataset = prepared(tmp_path / "root", write(tmp_path / "a.csv", rows), *words)
    assert dataset.order == "none"
    for table in dataset.timelines():
        assert table.schema.metadata[PARTS_KEY] == b"test,train"
        for row in table.to_pylist():
            (user,) = dataset.user_ids.external(np.array([row["user"]])).to_pylist()
            items = dataset.item_ids.external(np.array(row["item"])).to_pylist()
            assert row["part"] == [2 if i % 5 == user % 5 else 0 for i in items]


def test_ids_below_the_minimum_share_buckets_until_they_are_frequent(tmp_path: Path) -> None:
    rows = log(300, days=(1, 10))
    rare = {"user_id": 4, "item_id": "rare", "action": "save", "surface": "home", "duration_s": 0.0}
    rare |= {"event_id": 999, "timestamp": FIRST_MS + 5, "received_at": FIRST_MS + 5}
    path = write(tmp_path / "a.parquet", [*rows, rare])
    dataset = prepared(tmp_path / "root", path, "id.min_count=2", "id.buckets=3")
    assert "rare" not in dataset.item_ids.ids.to_pylist()
    assert 4 not in timelines(dataset)
    stored = stored_events(dataset)
    (row,) = stored.filter(pa.compute.equal(stored["event_id"], 999)).to_pylist()
    assert 1 <= row["item"] <= 3
    again = rare | {"event_id": 1000, "timestamp": FIRST_MS + 11 * DAY_MS}
    later = RawTables(order="clock", events=(posted([again], tmp_path / "p.parquet"),))
    after = next_day(dataset, later, Taken(1), "id.min_count=2", "id.buckets=3")
    assert "rare" in after.item_ids.ids.to_pylist()


def impression(request: int, position: int, time: int, item: int) -> dict[str, Any]:
    return {
        "request_id": request,
        "user_id": 7919 * (request % 5) - 50_000,
        "item_id": f"item-{item}",
        "timestamp": time,
        "surface": "home",
        "position": position,
        "context_item_id": f"item-{request % 4}" if request % 2 else None,
        "propensity": 0.25,
        "source": "popular",
        "labels": {"save": position == 1, "look": None if item % 2 else True},
        "labels_closed_at": time + DAY_MS,
    }


def test_impressions_keep_requests_together_with_a_label_for_each_action(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        impression(r, p, FIRST_MS + (r % 6) * DAY_MS + r, int(rng.integers(NUM_ITEMS)))
        for r in range(50)
        for p in (2, 0, 1)
    ]
    order = rng.permutation(len(rows))
    impressions = write(tmp_path / "i.parquet", [rows[i] for i in order])
    events = write(tmp_path / "a.parquet", log(400, days=(1, 12)))
    words = (f"source.impressions={impressions}", "prepare.block_rows=40")
    dataset = prepared(tmp_path / "root", events, *words)
    assert dataset.vocabulary.actions == ("click", "hide", "look", "save")
    assert dataset.counts["impressions"] == 150
    files = dataset.impression_files(1, 12)
    assert len(files) == 6
    for file in files:
        table = pq.ParquetFile(file).read()
        assert len(set(table["timestamp"].to_numpy() // DAY_MS)) == 1
        requests = table["request_id"].to_numpy()
        assert (np.diff(requests) != 0).sum() == len(set(requests.tolist())) - 1
        assert table["position"].to_pylist() == [0, 1, 2] * (len(table) // 3)
        assert table["label.save"].to_pylist() == [False, True, False] * (len(table) // 3)
        items = dataset.item_ids.external(table["item"].to_numpy()).to_pylist()
        expected = [int(item.split("-")[1]) % 2 == 0 for item in items]
        assert table["label.look"].to_pylist() == expected
        about = dataset.item_ids.external(table["context"].to_numpy()).to_pylist()
        expected = [f"item-{r % 4}" if r % 2 else None for r in requests.tolist()]
        assert about == expected


def test_a_log_that_calls_the_top_of_a_slate_1_has_positions_from_0(tmp_path: Path) -> None:
    def shown(request: int, day: int, first: int) -> Rows:
        time = FIRST_MS + day * DAY_MS + request
        return [impression(request, first + p, time, p) for p in range(3)]

    events = write(tmp_path / "a.parquet", log(400, days=(1, 12)))
    for first in (0, 1):
        rows = [row for r in range(9) for row in shown(r, 3, first)]
        impressions = write(tmp_path / f"{first}.parquet", rows)
        dataset = prepared(tmp_path / f"{first}", events, f"source.impressions={impressions}")
        later = posted(shown(99, 12, first)[first:], tmp_path / f"later-{first}.parquet")
        doings = posted(log(50, seed=1, days=(13, 13)), tmp_path / f"new-{first}.parquet")
        raw = RawTables(order="clock", events=(doings,), impressions=(later,))
        after = next_day(dataset, raw)
        assert after.first_position == first
        tables = [pq.ParquetFile(file).read() for file in after.impression_files(1, 13)]
        assert [t["position"].to_pylist() for t in tables] == [[0, 1, 2] * 9, [0, 1, 2][first:]]


def test_impressions_that_cannot_be_placed_are_set_aside_and_unknown_places_are_the_top(
    tmp_path: Path,
) -> None:
    rows = [
        impression(r, 1 + p, FIRST_MS + r, p) | {"label.hide": 0.0}
        for r in range(30)
        for p in range(3)
    ]
    rows[4]["position"] = None
    rows[5]["label.hide"] = float("nan")
    bad = [{"position": -1}, {"position": 40_000}, {"position": 1.5}, {"request_id": ""}]
    for at, change in enumerate(bad):
        rows[-1 - at] |= change
    rows = [r | {"request_id": str(r["request_id"]), "position": r["position"]} for r in rows]
    for row in rows:
        row["position"] = None if row["position"] is None else float(row["position"])
    shown = write(tmp_path / "i.parquet", rows)
    events = write(tmp_path / "a.parquet", log(400, days=(1, 12)))
    dataset = prepared(tmp_path / "root", events, f"source.impressions={shown}")
    assert sorted(r["reason"] for r in rejects(dataset)) == [
        "empty", "not a whole number", "not between 0 and 32767", "not between 0 and 32767"
    ]  # fmt: skip
    assert dataset.first_position == 1
    table = pa.concat_tables(
        pq.ParquetFile(file).read() for file in dataset.impression_files(1, 12)
    )
    assert table.num_rows == 86
    of_one = table.filter(pa.compute.equal(table["request_id"], 1))
    assert sorted(of_one["position"].to_pylist()) == [0, 0, 2]
    assert not pa.compute.any(table["label.hide"]).as_py()


def test_boards_become_edges_and_grow_with_the_days(tmp_path: Path) -> None:
    edges = [{"board_id": f"b{n % 3}", "item_id": f"item-{n}"} for n in range(50)]
    boards = write(tmp_path / "b.parquet", [*edges, {"board_id": None, "item_id": "item-1"}])
    events = write(tmp_path / "a.parquet", log())
    dataset = prepared(tmp_path / "root", events, f"source.boards={boards}")
    new = [{"board_id": "b9", "item_id": "item-5", "timestamp": FIRST_MS}]
    raw = RawTables(
        order="clock",
        events=(posted(log(5, seed=1, days=(DAYS + 1, DAYS + 1)), tmp_path / "p.parquet"),),
        boards=(posted(new, tmp_path / "q.parquet"),),
    )
    for found, expected in ((dataset, edges), (next_day(dataset, raw), [*edges, *new])):
        table = pq.read_table(found.artifact.path / "boards")
        items = found.item_ids.external(table["item"].to_numpy()).to_pylist()
        assert items == [edge["item_id"] for edge in expected]
        assert len(set(table["board"].to_pylist())) == len({edge["board_id"] for edge in expected})
    assert dataset.counts["rejected"] == 1


def board_log(edges: int) -> Rows:
    """Edges of good rows: board, item, time and weight."""
    return [
        {
            "board_id": f"b{n % 7}",
            "item_id": f"item-{n % NUM_ITEMS}",
            "timestamp": FIRST_MS + n,
            "strength": 0.5 + n % 3,
        }
        for n in range(edges)
    ]


BAD_EDGES = {
    3: ({"board_id": None}, ("board_id", "null", None)),
    40: ({"item_id": None}, ("item_id", "null", None)),
    101: ({"item_id": "item-999"}, ("item_id", UNKNOWN_ITEM, "item-999")),
    102: ({"timestamp": 12}, ("timestamp", "not between 1990 and 2100", "12")),
    150: ({"timestamp": None}, ("timestamp", "null", None)),
    151: ({"strength": None}, ("strength", "null", None)),
    152: ({"strength": 0.0}, ("strength", "0: no edge", "0.0")),
    160: ({"strength": -2.0}, ("strength", "negative", "-2.0")),
    170: ({"strength": float("nan")}, ("strength", "not finite", "nan")),
    199: ({"strength": float("inf")}, ("strength", "not finite", "inf")),
}


def test_bad_edges_are_set_aside_each_with_its_row_and_reason(tmp_path: Path) -> None:
    rows = board_log(400)
    for n, (change, _) in BAD_EDGES.items():
        rows[n] |= change
    boards = write(tmp_path / "b.parquet", rows)
    words = (f"source.boards={boards}", "source.columns.weight=strength", "prepare.block_rows=90")
    dataset = prepared(tmp_path / "root", write(tmp_path / "a.parquet", log()), *words)
    found = {row["row"]: (row["column"], row["reason"], row["value"]) for row in rejects(dataset)}
    assert found == {n: expected for n, (_, expected) in BAD_EDGES.items()}
    assert {row["file"] for row in rejects(dataset)} == {str(boards)}
    assert dataset.counts["rejected"] == len(BAD_EDGES)
    table = pa.concat_tables(pq.ParquetFile(file).read() for file in board_files(dataset))
    good = [row for n, row in enumerate(rows) if n not in BAD_EDGES]
    items = dataset.item_ids.external(table["item"].to_numpy()).to_pylist()
    assert items == [row["item_id"] for row in good]
    assert table["weight"].to_pylist() == [row["strength"] for row in good]
    assert table["timestamp"].to_pylist() == [row["timestamp"] for row in good]


def test_too_many_bad_edges_stop_the_job(tmp_path: Path) -> None:
    rows = [row | {"item_id": f"item-{n}"} for n, row in enumerate(board_log(100))]
    boards = write(tmp_path / "b.csv", rows)
    message = (
        r"40 of 100 rows .*max_reject_share=0.05 \(item_id no item of the log or the item table.*"
        r": 40\), such as .*b.csv row 60: item_id='item-60'"
    )
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "root", write(tmp_path / "a.parquet", log()), f"source.boards={boards}")
    with pytest.raises(UserError, match="no dataset yet"):
        Dataset.open(tmp_path / "root")


def test_boards_enrol_no_items_but_the_item_table_does(tmp_path: Path) -> None:
    edges = [*board_log(100), {"board_id": "b1", "item_id": "new", "timestamp": FIRST_MS}]
    boards = write(tmp_path / "b.csv", edges)
    events = write(tmp_path / "a.parquet", log())
    alone = prepared(tmp_path / "alone", events, f"source.boards={boards}")
    assert [row["value"] for row in rejects(alone)] == ["new"]
    assert "new" not in alone.item_ids.ids.to_pylist()
    items = write(tmp_path / "i.csv", [{"item_id": "new"}, {"item_id": "item-1"}])
    words = (f"source.boards={boards}", f"source.items={items}")
    assert rejects(prepared(tmp_path / "listed", events, *words)) == []


def test_boards_of_which_only_some_files_have_weights_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.parquet", board_log(9))
    write(tmp_path / "b" / "2.parquet", [{"board_id": "b", "item_id": "item-1", "timestamp": 0}])
    events = write(tmp_path / "a.parquet", log())
    words = (f"source.boards={tmp_path / 'b'}", "source.columns.weight=strength")
    with pytest.raises(UserError, match=r"2\.parquet has no column strength, but .*1\.parquet"):
        prepared(tmp_path / "root", events, *words)


def test_edges_of_a_log_without_a_clock_keep_the_times_they_have(tmp_path: Path) -> None:
    rows = [{"user_id": u, "item_id": s, "seq": s} for s in range(5) for u in range(4)]
    edges = [{"board_id": 1, "item_id": n, "timestamp": FIRST_MS if n % 2 else None}
             for n in range(5)]  # fmt: skip
    words = (
        f"source.boards={write(tmp_path / 'b.parquet', edges)}",
        "source.columns.position=seq",
        "split.kind=leave_one_out",
    )
    dataset = prepared(tmp_path / "root", write(tmp_path / "a.parquet", rows), *words)
    (file,) = board_files(dataset)
    assert pq.ParquetFile(file).read()["timestamp"].to_pylist() == [0, FIRST_MS, 0, FIRST_MS, 0]
    assert rejects(dataset) == []


def test_a_next_day_goes_on_from_edges_written_before_there_were_weights(tmp_path: Path) -> None:
    boards = write(tmp_path / "b.parquet", board_log(30))
    events = write(tmp_path / "a.parquet", log())
    dataset = prepared(tmp_path / "root", events, f"source.boards={boards}")
    (file,) = board_files(dataset)
    pq.write_table(pq.ParquetFile(file).read(["board", "item", "timestamp"]), file)
    later = {"board_id": "z", "item_id": "item-5", "timestamp": FIRST_MS + 50, "weight": 0.25}
    raw = RawTables(
        order="clock",
        events=(posted(log(5, seed=1, days=(DAYS + 1, DAYS + 1)), tmp_path / "p.parquet"),),
        boards=(posted([later], tmp_path / "q.parquet"),),
    )
    after = next_day(dataset, raw)
    assert board_files(after)[0].samefile(file)
    blocks, num_boards = board_edges(after, None, tmp_path / "graph")
    found = pa.concat_tables(blocks())
    assert num_boards == 8
    assert found["weight"].to_pylist() == [1.0] * 30 + [0.25]
    assert found["timestamp"].to_pylist() == [FIRST_MS + n for n in [*range(30), 50]]


def test_item_and_user_tables_become_aligned_features(tmp_path: Path) -> None:
    items = [
        {"item_id": f"item-{n}", "created_at": FIRST_MS + n, "year": 1900 + n} for n in range(70)
    ]
    users = [{"user_id": 7919 * n - 50_000, "country": "DK" if n % 2 else "SE"} for n in range(30)]
    words = (
        f"source.items={write(tmp_path / 'i.parquet', items)}",
        f"source.users={write(tmp_path / 'u.csv', users)}",
    )
    dataset = prepared(tmp_path / "root", write(tmp_path / "a.parquet", log()), *words)
    assert dataset.counts["items"] == 70
    assert [f.name for f in dataset.vocabulary.item_features] == ["year"]
    assert [f.cardinality for f in dataset.vocabulary.user_features] == [2]
    rows = dataset.item_ids.lookup(pa.array(["item-3", "item-69", "nothing"]))
    assert dataset.items.gather(rows[:2])["item.year"].tolist() == [1903, 1969]
    assert dataset.items_created_at[rows].tolist() == [FIRST_MS + 3, FIRST_MS + 69, 0]
    known, late = dataset.user_ids.lookup(pa.array([-50_000, 7919 * 35 - 50_000]))
    countries = dataset.users.gather(np.array([known, late]))["user.country"]
    assert countries[0] != 0
    assert countries[1] == 0


def test_a_next_day_adds_exactly_the_new_events(copy: Dataset, tmp_path: Path) -> None:
    new = log(200, seed=1, days=(DAYS + 1, DAYS + 1))
    new[7] |= {"user_id": 123_456_789, "item_id": "brand-new"}
    item = FileSet(files=(write(tmp_path / "i.parquet", [{"item_id": "brand-new"}]),))
    raw = RawTables(order="clock", events=(posted(new, tmp_path / "p.parquet"),), items=(item,))
    after = next_day(copy, raw, Taken(200, 7, 3))
    assert after.counts["new_events"] == 200
    assert after.counts["events"] == 2200
    assert Taken.of(after.details) == Taken(200, 7, 3)
    assert timelines(after) == expected_timelines([*log(), *new])
    assert after.calendar is not None
    assert (after.calendar.num_days, after.calendar.base_days) == (DAYS + 1, DAYS)
    for side in ("item_ids", "user_ids"):
        before, now = getattr(copy, side), getattr(after, side)
        assert now.ids[: len(before.ids)].equals(before.ids)
        assert (
            current(copy.root, side).version
            == after.artifact.manifest.id_space[side[:4]]["version"]
        )
    assert len(stored_events(after)) == 2200
    assert_counted(after)


def test_a_next_day_writes_only_what_it_changes(copy: Dataset, tmp_path: Path) -> None:
    one_user = [r | {"user_id": -50_000} for r in log(20, seed=1, days=(DAYS + 1, DAYS + 1))]
    raw = RawTables(order="clock", events=(posted(one_user, tmp_path / "p.parquet"),))
    after = next_day(copy, raw)
    written = [folder.name for folder in (after.artifact.path / "events").iterdir()]
    assert len(written) == 1
    same = [
        new.stat().st_ino == old.stat().st_ino
        for new, old in zip(after.timeline_files, copy.timeline_files, strict=True)
    ]
    assert same.count(False) == 1
    copy.artifact.verify()
    versions = set(after.details["partitions"].values())
    assert versions == {copy.artifact.version, after.artifact.version}


def test_known_and_repeated_events_are_not_added_again(copy: Dataset, tmp_path: Path) -> None:
    new = log(50, seed=1, days=(DAYS + 1, DAYS + 1))
    again = [row for row in log() if row["timestamp"] >= FIRST_MS + (DAYS - 3) * DAY_MS]
    rows = [*new, *again, new[3] | {"user_id": 5}]
    raw = RawTables(order="clock", events=(posted(rows, tmp_path / "p.parquet"),))
    after = next_day(copy, raw)
    assert after.counts["new_events"] == 50
    assert [r["reason"] for r in rejects(after)] == ["duplicate"] * (len(again) + 1)
    assert timelines(after) == expected_timelines([*log(), *new])


def test_late_events_reopen_the_last_days_and_older_ones_are_rejected(
    copy: Dataset, tmp_path: Path
) -> None:
    def at(day: int, number: int) -> dict[str, Any]:
        row = log(2)[0] | {"event_id": 5_000_000 + number, "user_id": -50_000}
        return row | {"timestamp": FIRST_MS + (day - 1) * DAY_MS + 5000}

    late = [at(day, day) for day in range(DAYS - 5, DAYS + 2)]
    raw = RawTables(order="clock", events=(posted(late, tmp_path / "p.parquet"),))
    after = next_day(copy, raw)
    assert after.counts["new_events"] == 4
    assert sorted(r["value"] for r in rejects(after)) == [str(r["timestamp"]) for r in late[:3]]
    assert timelines(after) == expected_timelines([*log(), *late[3:]])
    assert_counted(after)
    times = pq.ParquetFile(after.event_files(DAYS, DAYS)[0]).read()["timestamp"].to_pylist()
    assert times == sorted(times)
    assert late[-2]["timestamp"] in times


def test_reopened_days_are_written_a_few_at_a_time(
    copy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def counted(*words: Any) -> dict[str, int]:
        rows = write_days(*words)
        written.append(sum(rows.values()))
        return rows

    monkeypatch.setattr(placement, "write_days", counted)
    new = log(24, seed=1, days=(DAYS - 5, DAYS))
    raw = RawTables(order="clock", events=(posted(new, tmp_path / "p.parquet"),))
    words = ("prepare.late_days=9", "prepare.shard_events=50")
    after = next_day(copy, raw, None, *words)
    days = [after.events_on(day) for day in range(DAYS - 5, DAYS + 1)]
    assert sum(written) == sum(days) > 24
    assert max(written) < 2 * 50 + max(days)
    assert_counted(after)


def test_a_day_without_events_is_a_version_of_its_own(copy: Dataset, tmp_path: Path) -> None:
    empty = pa.Table.from_pylist(log(2)).slice(0, 0)
    pq.write_table(empty, tmp_path / "p.parquet")
    raw = RawTables(order="clock", events=(FileSet(files=(tmp_path / "p.parquet",)),))
    after = next_day(copy, raw, Taken(7))
    assert after.counts["new_events"] == 0
    assert after.artifact.version != copy.artifact.version
    assert timelines(after) == timelines(copy)


def test_a_day_with_posted_items_alone_admits_them(copy: Dataset, tmp_path: Path) -> None:
    items = [{"item_id": "brand-new"}, {"item_id": "item-1"}]
    raw = RawTables.of("clock", {"items": (posted(items, tmp_path / "i.parquet"),)})
    after = next_day(copy, raw, Taken(2))
    assert after.counts["new_events"] == 0
    assert after.counts["items"] == NUM_ITEMS + 1
    assert timelines(after) == timelines(copy)


def test_posted_events_dated_by_a_far_wall_clock_join_but_move_no_window(
    copy: Dataset, tmp_path: Path
) -> None:
    far = [log(2)[0] | {"event_id": 77, "timestamp": FIRST_MS + 700 * DAY_MS}]
    raw = RawTables(order="clock", events=(posted(far, tmp_path / "p.parquet"),))
    after = next_day(copy, raw)
    assert after.counts["new_events"] == 1
    assert after.calendar == copy.calendar
    assert timelines(after) == expected_timelines([*log(), *far])
    again = next_day(after, raw, Taken(1))
    assert again.counts["new_events"] == 0


def test_a_first_log_with_a_few_wrong_clocks_keeps_its_days(tmp_path: Path) -> None:
    rows = log()
    early = rows[0] | {"event_id": -1, "timestamp": 631_152_000_001}
    late = rows[1] | {"event_id": -2, "timestamp": 4_070_908_800_000}
    dataset = prepared(tmp_path / "root", write(tmp_path / "a.parquet", [*rows, early, late]))
    assert dataset.calendar == Calendar(first_day_ms=FIRST_MS, num_days=DAYS, base_days=DAYS)
    assert timelines(dataset) == expected_timelines([*rows, late])
    assert [(r["row"], r["reason"]) for r in rejects(dataset)] == [(2000, "before the log begins")]


def test_a_next_day_of_an_order_only_log_appends(tmp_path: Path) -> None:
    rows = [{"user_id": u, "item_id": s, "seq": s} for s in range(5) for u in range(4)]
    words = ("source.columns.position=seq", "split.kind=leave_one_out")
    dataset = prepared(tmp_path / "root", write(tmp_path / "a.parquet", rows), *words)
    new = [
        {"event_id": f"e{n}", "user_id": 1, "item_id": 90 + n, "timestamp": FIRST_MS}
        for n in range(3)
    ]
    raw = RawTables(order="position", events=(posted(new, tmp_path / "p.parquet"),))
    after = next_day(dataset, raw, Taken(3), *words)
    assert [e[0] for e in timelines(after)[1]] == [0, 1, 2, 3, 4, 90, 91, 92]
    assert after.counts["new_events"] == 3
    assert sum(pq.read_metadata(f).num_rows for f in after.undated_files()) == 23
    assert sum(pq.read_table(after.artifact.path / "item_days.parquet")["count"].to_pylist()) == 23
    again = next_day(after, raw, Taken(6), *words)
    assert again.counts["new_events"] == 0


def test_public_logs_are_prepared_as_published(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ml-100k"
    words = [f"source.{name}={folder / file}.parquet" for name, file in
             (("items", "items"), ("users", "users"))]  # fmt: skip
    events = folder / "interactions.parquet"
    dataset = prepared(tmp_path / "root", events, "source.timestamp_unit=s", *words)
    assert dataset.counts | {"new_events": 0} == {
        "events": 100_000, "new_events": 0, "users": 943, "items": 1682, "impressions": 0,
        "rejected": 0}  # fmt: skip
    assert dataset.calendar is not None
    assert dataset.calendar.num_days == 215


def test_the_job_ends_with_a_summary(tmp_path: Path, monkeypatch, capsys) -> None:
    from ray_jobs.engine.job import run
    from ray_jobs.prepare import main

    path = write(tmp_path / "a.parquet", log())
    words = [f"root={tmp_path / 'root'}", "source.kind=table", f"source.events={path}"]
    monkeypatch.setattr("sys.argv", ["prepare", *words])
    run("prepare", main)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["counts"]["events"] == 2000
    assert summary["peak_mib"]["prepare"] > 0
    monkeypatch.setattr("sys.argv", ["prepare", *words, "source.columns.item_id=film"])
    with pytest.raises(SystemExit) as ended:
        run("prepare", main)
    assert ended.value.code == 2
