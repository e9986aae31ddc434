from pathlib import Path

import pyarrow as pa
import pytest

from data.attributes import read_attributes
from data.chunks import plan, read
from data.contract.mirrors import PLACE
from data.contract.settings import UserError, build
from data.raw_tables import RawTables
from data.sources import SourceSettings, locate

RATINGS = [(1, 10, 5, 978300760), (1, 20, 3, 978300761), (2, 10, 4, 978300762)]


def located(folder: Path | str) -> RawTables:
    return locate(build(SourceSettings, {"kind": "movielens", "path": str(folder)}))


def events(raw: RawTables) -> list[tuple[str, ...]]:
    columns = ["userId", "movieId", "rating", "timestamp"]
    blocks = [b.rows for chunk in plan(raw.events, 2) for b in read(chunk, columns, 2)]
    table = pa.concat_tables(blocks)
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def release_100k(folder: Path) -> None:
    (folder / "u.data").write_text("".join("\t".join(map(str, r)) + "\n" for r in RATINGS))
    flags = ["0"] * 19
    toy, golden = flags.copy(), flags.copy()
    toy[3] = toy[4] = golden[1] = "1"
    lines = [
        "|".join(["10", 'Toy "Story" (1995)', "01-Jan-1995", "", "http://x", *toy]),
        "|".join(["20", "Le Café (1995)", "01-Jan-1995", "", "http://y", *golden]),
    ]
    (folder / "u.item").write_text("\n".join(lines) + "\n", encoding="latin1")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|T8H1N\n")


def release_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("".join("::".join(map(str, r)) + "\n" for r in RATINGS))
    movies = "10::Star Wars: Episode IV (1977)::Animation|Children's\n20::Café::Action\n"
    (folder / "movies.dat").write_text(movies, encoding="latin1")
    (folder / "users.dat").write_text("1::M::24::12::85711\n2::F::53::1::55117-1\n")


def release_20m(folder: Path) -> None:
    lines = "".join(",".join(map(str, r)) + "\n" for r in RATINGS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines)
    movies = 'movieId,title,genres\n10,"Café, The (1995)",Animation|Children\'s\n20,X,Action\n'
    (folder / "movies.csv").write_text(movies)


@pytest.mark.parametrize("release", [release_100k, release_1m, release_20m])
def test_every_release_gives_the_same_log_and_genres(tmp_path: Path, release) -> None:
    release(tmp_path)
    raw = located(tmp_path)
    assert events(raw) == [tuple(map(str, row)) for row in RATINGS]
    assert raw.order == "clock"
    assert raw.events[0].timestamp_unit == "s"
    items = read_attributes(raw.items, "item_id", pa.int64())
    assert items.ids.to_pylist() == [10, 20]
    assert items.columns["genres"].to_pylist() == [["Animation", "Children's"], ["Action"]]
    assert "Caf\u00e9" in "".join(items.columns["title"].to_pylist())


@pytest.mark.parametrize("release", [release_100k, release_1m])
def test_users_of_the_older_releases_are_read(tmp_path: Path, release) -> None:
    release(tmp_path)
    users = read_attributes(located(tmp_path).users, "user_id", pa.int64())
    assert users.ids.to_pylist() == [1, 2]
    assert users.columns["age"].to_pylist() == [24, 53]


def test_a_folder_without_a_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"u\.data"):
        located(tmp_path)
    with pytest.raises(UserError, match=r"source\.path=file:///nowhere holds none"):
        located("file:///nowhere")


def test_a_release_may_lie_in_object_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    release_1m(tmp_path)
    (tmp_path / "README").write_text("none of the tables")
    raw = located(f"file://{tmp_path}")
    assert events(raw) == events(located(tmp_path))
    assert raw.items[0].name() == f"file://{tmp_path}/movies.dat"
    assert {file.name for file in raw.users[0].files[0].parent.iterdir()} == {
        *("ratings.dat", "movies.dat", "users.dat")
    }
