"""Version folders: made beside, numbered, retired, and never half there."""

from __future__ import annotations

import shutil

import pytest

from keras_unet.errors import ConfigError
from keras_unet.serving import folders


def fill(path):
    (path / "variables").mkdir(parents=True)
    (path / "variables" / "a").write_text("weights")


def test_only_integers_are_versions(tmp_path):
    for name in ("1", "12", "x3", ".unfinished-4", "5.", "-6", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("a file")
    assert folders.versions(tmp_path) == [1, 12]


def test_a_version_appears_only_when_it_is_placed(tmp_path):
    with folders.unfinished(tmp_path / "unet") as beside:
        fill(beside)
        assert folders.versions(tmp_path / "unet") == []
        version = folders.place(beside)
    assert version == tmp_path / "unet" / "1"
    assert (version / "variables" / "a").read_text() == "weights"
    with pytest.raises(RuntimeError), folders.unfinished(tmp_path / "unet") as beside:
        fill(beside)
        raise RuntimeError
    assert {p.name for p in (tmp_path / "unet").iterdir()} == {"1", ".lock"}


def test_the_newest_and_the_pinned_are_kept(tmp_path):
    for name in ("1", "2", "003", "4", "5"):
        fill(tmp_path / name)
    assert folders.retire(tmp_path, 2, pinned={2}) == [1, 3]
    assert {p.name for p in tmp_path.iterdir()} == {"2", "4", "5"}
    assert folders.retire(tmp_path, 9) == []
    with pytest.raises(ConfigError, match="keep is 0"):
        folders.retire(tmp_path, 0)


def test_a_version_is_renamed_before_it_is_deleted(tmp_path, monkeypatch):
    fill(tmp_path / "1")
    fill(tmp_path / "2")

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.retire(tmp_path, 1)
    monkeypatch.undo()
    assert folders.versions(tmp_path) == [2]
    assert (tmp_path / ".removed-1" / "variables" / "a").exists()
    with folders.unfinished(tmp_path):  # the next publisher clears it
        assert {p.name for p in tmp_path.iterdir()} == {"2", ".lock"}


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "models.config"
    folders.write_text(path, "old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folders.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["models.config"]
