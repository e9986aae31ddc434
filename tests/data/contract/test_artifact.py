import json
from pathlib import Path

import pytest

from data.contract import artifact
from data.contract.settings import UserError


def published(root: Path, text: str = "hello", version: str = "v1") -> artifact.Artifact:
    with artifact.publish(root, "dataset", version, details={"n": 1}) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "file.txt").write_text(text)
        draft.fields["metrics"] = {"m": 2}
    return artifact.read(root / "dataset" / version)


def test_a_published_artefact_has_its_fields_and_checksums(tmp_path: Path) -> None:
    made = published(tmp_path)
    assert made.manifest.details == {"n": 1}
    assert made.manifest.metrics == {"m": 2}
    assert list(made.manifest.checksums) == ["sub/file.txt"]
    assert made.manifest.name == "dataset/v1"
    assert made.reference() == {"kind": "dataset", "version": "v1"}
    made.verify()


def test_a_changed_or_missing_file_is_found_by_name(tmp_path: Path) -> None:
    made = published(tmp_path)
    (made.path / "sub" / "file.txt").write_text("other")
    with pytest.raises(UserError, match=r"file\.txt does not match"):
        made.verify()
    (made.path / "sub" / "file.txt").unlink()
    with pytest.raises(UserError, match=r"lacks sub/file\.txt"):
        made.verify()


def test_an_interrupted_publication_is_invisible_and_cleared_by_the_next(tmp_path: Path) -> None:
    def interrupted() -> None:
        with artifact.publish(tmp_path, "dataset", "v1") as draft:
            (draft.path / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert artifact.find(tmp_path, "dataset", "v1") is None
    made = published(tmp_path)
    assert not (made.path / "half").exists()


def test_what_it_is_made_from_is_kept_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "checkpoints" / "best"
    weights.parent.mkdir()
    weights.write_text("of hours")

    def publish_once() -> None:
        with artifact.publish(tmp_path, "ranker", "v1") as draft:
            (draft.path / "model").write_text(weights.read_text())
            draft.scratch.append(weights.parent)

    with monkeypatch.context() as full:
        full.setattr(artifact, "checksum", refuse)
        with pytest.raises(OSError, match="No space"):
            publish_once()
    publish_once()
    assert not weights.parent.exists()
    assert (artifact.read(tmp_path / "ranker" / "v1").path / "model").read_text() == "of hours"


def refuse(*_: object) -> str:
    raise OSError("No space left on device")


def test_current_is_what_was_pointed_at_not_the_newest(tmp_path: Path) -> None:
    first = published(tmp_path)
    with pytest.raises(UserError, match="no dataset yet"):
        artifact.current(tmp_path, "dataset")
    artifact.point(tmp_path, first)
    published(tmp_path, version="v2")
    assert artifact.has_current(tmp_path, "dataset")
    assert artifact.current(tmp_path, "dataset").version == "v1"


def test_the_version_depends_on_parents_and_settings_alone() -> None:
    parents = [{"kind": "world", "version": "a"}]
    version = artifact.version_of(parents, {"x": 1, "y": [2]})
    assert version == artifact.version_of(parents, {"y": [2], "x": 1})
    assert version != artifact.version_of(parents, {"x": 2, "y": [2]})
    assert version != artifact.version_of([], {"x": 1, "y": [2]})


def test_a_manifest_is_plain_json(tmp_path: Path) -> None:
    made = published(tmp_path)
    assert json.loads((made.path / artifact.MANIFEST).read_text())["kind"] == "dataset"


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not finished"):
        artifact.read(tmp_path)


def test_an_atomic_write_leaves_nothing_else_behind(tmp_path: Path) -> None:
    artifact.write_atomically(tmp_path / "a" / "CURRENT", "x")
    artifact.write_atomically(tmp_path / "a" / "CURRENT", "y")
    assert [(f.name, f.read_text()) for f in (tmp_path / "a").iterdir()] == [("CURRENT", "y")]
