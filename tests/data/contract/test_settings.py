import errno
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from pyarrow import fs

from data.contract.mirrors import PLACE
from data.contract.settings import (
    Count,
    Dropout,
    Share,
    UserError,
    attribute_help,
    build,
    help_lines,
    load,
    merge,
    read_words,
    to_tree,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Sequences.

    Attributes:
        max_length: events that are
            kept.
        dropout: share dropped.
    """

    max_length: Count = 100
    dropout: Dropout = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """All.

    Attributes:
        kind: what to do.
        shares: several shares.
        names: ours to theirs.
    """

    kind: Literal["time", "column"] = "time"
    sequence: Sequence = field(default_factory=Sequence)
    shares: list[Share] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    path: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "column" and self.path is None:
            raise ValueError("kind=column needs path")


def test_later_words_win_over_earlier_ones_and_over_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("sequence: {max_length: 5, dropout: 0.2}\nkind: time\n")
    found = load(Root, [str(file), "sequence.max_length=7", "sequence.max_length=8"])
    assert found == Root(sequence=Sequence(max_length=8, dropout=0.2))


def test_a_file_may_lie_in_object_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "here"))
    (tmp_path / "a.yaml").write_text("kind: time")
    uri = f"file://{tmp_path}/a.yaml"
    assert read_words([uri, f"path={uri}"]) == {"kind": "time", "path": uri}
    (tmp_path / "a.yaml").write_text("- 1")
    with pytest.raises(UserError, match=f"^{uri} must hold a mapping"):
        read_words([uri])
    (tmp_path / "a.yaml").unlink()
    with pytest.raises(UserError, match=f"settings file {uri} does not exist"):
        read_words([uri])


def test_the_uri_of_a_file_may_have_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_uri(uri: str) -> None:
        assert uri.endswith("?endpoint_override=h:9&scheme=http")
        raise OSError("nobody answers")

    monkeypatch.setattr(fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    with pytest.raises(UserError, match="nobody answers"):
        read_words(["shop://settings/a.yml?endpoint_override=h:9&scheme=http"])


def test_words_are_yaml_and_what_is_no_yaml_is_text() -> None:
    tree = read_words(["shares=[0.1, 1]", "names.like=rating>=4", "path="])
    assert tree == {"shares": [0.1, 1], "names": {"like": "rating>=4"}, "path": ""}


def test_words_that_older_yaml_reads_as_truth_or_time_stay_what_they_are() -> None:
    found = load(Root, ["names.norway=no", "names.on=12:30", "path=2026-11-30"])
    assert found == Root(names={"norway": "no", "on": "12:30"}, path="2026-11-30")
    assert load(Root, ["sequence.max_length=010"]).sequence.max_length == 10


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sequense.max_length=1", "unknown setting sequense; did you mean sequence"),
        ("sequence.max_lenght=1", "did you mean sequence.max_length"),
        ("sequence=1", "is a group"),
        ("sequence.max_length=0", "sequence.max_length: .*greater than or equal to 1"),
        ("sequence.max_length=many", "sequence.max_length"),
        ("sequence.dropout=1", "sequence.dropout"),
        ("shares=[2]", "shares.0"),
        ("kind=tome", "kind"),
        ("kind=column", "^kind=column needs path[^(]*$"),
        ("shares=half", r"shares: Input should be a list such as \[1, 2\] \(got 'half'\)"),
        ("path=20261130", r"path: Input should be text; .*, path='\"\.\.\.\"' \(got 20261130\)"),
        ("names=like", r"names: .* set names.<name>=<value> \(got 'like'\)"),
        ("words", "neither key=value nor"),
        ("nothing.yaml", "does not exist"),
        ("s3://bucket/nothing", "neither key=value nor"),
    ],
)
def test_a_wrong_word_is_refused_with_its_key(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(Root, [word])


@pytest.mark.parametrize("text", [b"- 1\n", b"a: [\n", b"kind: \xff\n", b"a: 1\na: 2\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(text)
    with pytest.raises(UserError, match=r"a\.yaml"):
        load(Root, [str(tmp_path / "a.yaml")])


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_bytes(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.yaml").write_text("kind: time")
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(
        UserError, match=r"settings file .*a\.yaml cannot be read: Permission denied"
    ):
        load(Root, [str(tmp_path / "a.yaml")])


def test_settings_survive_a_round_trip_through_plain_values() -> None:
    found = load(Root, ["shares=[0.5]", "names.a=b", "sequence.max_length=3"])
    assert build(Root, to_tree(found)) == found


def test_merging_is_deep_and_leaves_its_inputs_alone() -> None:
    base = {"a": {"b": 1, "c": 2}}
    assert merge(base, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}
    assert base == {"a": {"b": 1, "c": 2}}


def test_help_names_every_setting_with_type_default_and_meaning() -> None:
    lines = {key: rest for key, *rest in help_lines(Root)}
    assert lines["sequence.max_length"] == ["int >= 1", "100", "events that are kept."]
    assert lines["sequence.dropout"] == ["float >= 0 < 1", "0.1", "share dropped."]
    assert lines["kind"][0] == "time|column"
    assert lines["shares"][0] == "list of float >= 0 <= 1"
    assert lines["path"][0] == "str"
    assert set(attribute_help(Root)) == {"kind", "shares", "names"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Longer(Sequence):
    """Longer ones.

    Attributes:
        overlap: shared events.
    """

    overlap: Count = 1


def test_inherited_fields_are_explained_by_the_class_that_has_them() -> None:
    assert set(attribute_help(Longer)) == {"max_length", "dropout", "overlap"}
    assert all(text for *_, text in help_lines(Longer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """Shops.

    Attributes:
        models: model by name.
    """

    models: dict[str, Sequence] = field(default_factory=dict)


def test_entries_of_a_map_are_groups_of_settings() -> None:
    found = load(Shop, ["models.a.max_length=7", "models.b.dropout=.5"])
    assert found.models == {"a": Sequence(max_length=7), "b": Sequence(dropout=0.5)}
    assert build(Shop, to_tree(found)) == found
    with pytest.raises(
        UserError, match=r"models\.a\.max_lengt; did you mean models\.a\.max_length"
    ):
        load(Shop, ["models.a.max_lengt=7"])
    with pytest.raises(UserError, match=r"models\.a is a group of settings"):
        load(Shop, ["models.a=7"])
    with pytest.raises(UserError, match=r"models\.a\.max_length: .* greater than or equal to 1"):
        load(Shop, ["models.a.max_length=0"])
    with pytest.raises(UserError, match="models: Input should be a map"):
        load(Shop, ["models=7"])
    keys = [key for key, *_ in help_lines(Shop)]
    assert keys == ["models.<name>.max_length", "models.<name>.dropout"]
