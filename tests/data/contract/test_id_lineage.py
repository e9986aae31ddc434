"""Which artefacts' rows mean the same ids."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.contract.artifact import Artifact, Manifest, publish
from data.contract.id_lineage import check_same_ids, descends
from data.contract.settings import UserError

Space = dict[str, Any]


def ids(root: Path, version: str, rows: int, extends: str | None = None) -> Space:
    """Publishes an artefact of ids without ids; gives what a data set's manifest says of it."""
    parents = [{"kind": "item_ids", "version": extends}] if extends else []
    with publish(root, "item_ids", version, parents=parents):
        pass
    return {"major": 1, "rows": rows, "version": version}


def named(kind: str, space: Space) -> Artifact:
    fields = {"version": f"of-{space.get('version')}", "created": "", "id_space": {"item": space}}
    return Artifact(Path(), Manifest(kind=kind, **fields))


def agree(root: Path, dataset: Space, model: Space) -> bool:
    try:
        check_same_ids(root, named("dataset", dataset), named("ranker", model))
    except UserError:
        return False
    return True


@pytest.fixture
def spaces(tmp_path: Path) -> dict[str, Space]:
    """A first day, two that extend it in a row, another that extends it, and one made anew."""
    return {
        "first": ids(tmp_path, "a", 10),
        "second": ids(tmp_path, "b", 12, "a"),
        "third": ids(tmp_path, "c", 12, "b"),
        "other second": ids(tmp_path, "d", 13, "a"),
        "anew": ids(tmp_path, "e", 12),
    }


@pytest.mark.parametrize(
    ("dataset", "model", "same", "later"),
    [
        ("first", "first", True, True),
        ("third", "first", True, True),
        ("third", "second", True, True),
        ("first", "third", True, False),
        ("second", "third", True, False),
        ("other second", "second", False, False),
        ("third", "other second", False, False),
        ("anew", "first", False, False),
        ("first", "anew", False, False),
        ("second", "anew", False, False),
    ],
)
def test_rows_are_the_same_where_one_space_extends_the_other(
    tmp_path: Path, spaces: dict[str, Space], dataset: str, model: str, same: bool, later: bool
) -> None:
    assert agree(tmp_path, spaces[dataset], spaces[model]) == same
    both = named("dataset", spaces[dataset]), named("ranker", spaces[model])
    assert descends(tmp_path, *both) == later


def test_a_refusal_names_both_sides(tmp_path: Path, spaces: dict[str, Space]) -> None:
    both = named("dataset", spaces["anew"]), named("ranker", spaces["first"])
    said = r"ranker/of-a is for item ids .*'version': 'a'.* but dataset/of-e has .*'version': 'e'"
    with pytest.raises(UserError, match=said):
        check_same_ids(tmp_path, *both)


def test_where_nothing_tells_any_more_only_another_numbering_is_refused(
    tmp_path: Path, spaces: dict[str, Space]
) -> None:
    unsaid = {"major": 1, "rows": 10}
    assert agree(tmp_path, spaces["anew"], unsaid)
    assert not agree(tmp_path, spaces["anew"], unsaid | {"major": 2})
    assert not agree(tmp_path, spaces["anew"], {})
    shutil.rmtree(tmp_path / "item_ids" / "c")
    assert agree(tmp_path, spaces["second"], spaces["third"])
    assert not agree(tmp_path, spaces["other second"], spaces["third"]), "it has fewer rows"
    assert not descends(tmp_path, named("dataset", spaces["third"]), named("id", spaces["first"]))


def test_another_machine_asks_the_storage_for_manifests_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.contract import storage

    monkeypatch.setenv("HOMEFEED_MIRROR", str(tmp_path / "one"))
    root = storage.mirror((tmp_path / "bucket" / "root").as_uri())
    first, second = ids(root, "a", 10), ids(root, "b", 12, "a")
    monkeypatch.setenv("HOMEFEED_MIRROR", str(tmp_path / "two"))
    root = storage.mirror((tmp_path / "bucket" / "root").as_uri())
    assert agree(root, second, first)
    assert not agree(root, ids(root, "e", 12), first)
    assert not (root / "item_ids" / "b").exists()
    assert json.loads((root / "item_ids" / "e" / "manifest.json").read_text())["parents"] == []
