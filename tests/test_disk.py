"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keras_unet import disk


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "models.config"
    disk.write_text(path, "old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["models.config"]


def test_its_name_appears_when_it_is_on_the_disk_and_is_then_synced_too(tmp_path, monkeypatch):
    sync, replace, done = os.fsync, Path.replace, []

    def synced(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def renamed(path, to):
        done.append("name")
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    assert disk.write_text(tmp_path / "a", "1\n2\r\n").read_bytes() == b"1\n2\r\n"
    assert done == ["file", "name", "folder"]


def test_all_of_a_folder_is_synced(tmp_path, monkeypatch):
    (tmp_path / "one" / "two").mkdir(parents=True)
    (tmp_path / "one" / "file").write_text("text")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    disk.sync(tmp_path)
    places = [tmp_path, *tmp_path.rglob("*")]
    assert sorted(synced) == sorted(place.stat().st_ino for place in places)
