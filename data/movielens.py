"""The original MovieLens files: ml-100k, ml-1m and ml-10m, ml-20m and later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.contract.settings import UserError
from data.contract.storage import brought
from data.raw_tables import FileSet, TextLayout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RATING_NAMES = ("userId", "movieId", "rating", "timestamp")
COLUMNS = {"user_id": "userId", "item_id": "movieId"}
GENRES_100K = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime",
               "Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery",
               "Romance", "Sci-Fi", "Thriller", "War", "Western")  # fmt: skip
ITEMS_100K = TextLayout(
    delimiter="|",
    names=("movieId", "title", "release_date", "video_release_date", "url", *GENRES_100K),
    encoding="latin1",
    flags={"genres": GENRES_100K},
)
USERS_100K = TextLayout(
    delimiter="|", names=("userId", "age", "gender", "occupation", "zip_code"), encoding="latin1"
)
ITEMS_1M = TextLayout(
    delimiter="::", names=("movieId", "title", "genres"), encoding="latin1", lists={"genres": "|"}
)
USERS_1M = TextLayout(
    delimiter="::", names=("userId", "gender", "age", "occupation", "zip_code"), encoding="latin1"
)
# File of ratings -> (its layout, item file, its layout, user file, its layout).
RELEASES = (
    ("u.data", TextLayout(delimiter="\t", names=RATING_NAMES),
     (("items", "u.item", ITEMS_100K), ("users", "u.user", USERS_100K))),
    ("ratings.dat", TextLayout(delimiter="::", names=RATING_NAMES),
     (("items", "movies.dat", ITEMS_1M), ("users", "users.dat", USERS_1M))),
    ("ratings.csv", TextLayout(),
     (("items", "movies.csv", TextLayout(lists={"genres": "|"})),)),
)  # fmt: skip


def file_sets(folder: str, actions: Mapping[str, str]) -> dict[str, tuple[FileSet, ...]]:
    """The tables of a MovieLens folder, or its URI, by role. Raises UserError when it is none."""
    for ratings, layout, others in RELEASES:
        events = brought(folder, ratings)
        if events.is_file():
            files = {role: (brought(folder, name), text) for role, name, text in others}
            tables = {r: (_files(at, text, {}),) for r, (at, text) in files.items() if at.is_file()}
            return {"events": (_files(events, layout, actions),), **tables}
    known = ", ".join(ratings for ratings, *_ in RELEASES)
    raise UserError(f"source.path={folder} holds none of {known}; unpack a MovieLens set there")


def _files(path: Path, text: TextLayout, actions: Mapping[str, str]) -> FileSet:
    return FileSet(files=(path,), columns=COLUMNS, timestamp_unit="s", actions=actions, text=text)
