"""Version folders: made beside, numbered, retired, and never half there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat

import pytest

from keras_unet.errors import ConfigError, ExportError
from keras_unet.serving import folders


def fill(path):
    (path / "variables").mkdir(parents=True)
    (path / "variables" / "a").write_text("weights")


def test_only_integers_are_versions(tmp_path):
    for name in ("1", "12", "x3", ".unfinished-4", "5.", "-6", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("a file")
    assert folders.versions(tmp_path) == [1, 12]


def test_names_are_read_as_tensorflow_serving_reads_them(tmp_path):
    most = str(2**63 - 1)
    names = ("0", "007", "0" * 60 + "12", "00000123", most)
    none = (str(2**63), "20261130052033123456789", "9" * 200, "٣", "1_0", "1e3", "+4", " 5")
    for name in (*names, *none):
        (tmp_path / name).mkdir()
    found = folders.numbered(tmp_path)
    assert found == {int(name): tmp_path / name for name in names}
    with pytest.raises(ExportError, match=f"version {most} is there, and TF Serving knows no"):
        folders.next_number(found)
    assert folders.next_number([7, 3]) == 8
    assert folders.next_number([]) == 1


def test_a_number_beyond_int64_hides_no_later_version(tmp_path):
    (tmp_path / "20261130052033123456789").mkdir()
    (tmp_path / "0041").mkdir()
    with folders.unfinished(tmp_path) as beside:
        fill(beside)
        assert folders.place(beside) == tmp_path / "42"
    assert sorted(folders.numbered(tmp_path)) == [41, 42]


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

    def killed(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.retire(tmp_path, 1)
    monkeypatch.undo()
    assert folders.versions(tmp_path) == [2]
    (away,) = tmp_path.glob(".removed-1-*")
    assert (away / "variables" / "a").exists()
    with folders.unfinished(tmp_path):  # the next publisher clears it
        assert {p.name for p in tmp_path.iterdir()} == {"2", ".lock"}


def test_files_that_cannot_be_deleted_yet_hold_up_nobody(tmp_path, monkeypatch):
    """As on a network file system while a server reads them."""
    fill(tmp_path / "1")
    fill(tmp_path / "2")

    def busy(*_, **__):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rmdir", busy)
    assert folders.retire(tmp_path, 1) == [1]
    with folders.unfinished(tmp_path) as beside:
        assert not beside.exists()
        fill(beside)
        assert folders.place(beside) == tmp_path / "3"
    assert len(list(tmp_path.glob(".removed-1-*"))) == 1
    fill(tmp_path / "1")  # the number again, where somebody started anew
    assert folders.retire(tmp_path, 1) == [1, 2]
    monkeypatch.undo()
    with folders.unfinished(tmp_path):
        assert {p.name for p in tmp_path.iterdir()} == {"3", ".lock"}


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with (
        pytest.raises(ExportError, match=r"\.lock: cannot be locked \(No locks available\)"),
        folders.unfinished(tmp_path / "unet"),
    ):
        pass


def test_new_folders_are_synced_in_those_above(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(folders, "sync_folder", synced.append)
    with folders.unfinished(tmp_path / "models" / "unet"):
        assert synced == [tmp_path / "models", tmp_path]
    with folders.unfinished(tmp_path / "models" / "unet"):
        assert len(synced) == 2


def test_a_file_system_that_does_not_sync_folders_is_used(tmp_path, monkeypatch):
    sync, wrong = os.fsync, [errno.EINVAL]

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(wrong[0], "not here")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    with folders.unfinished(tmp_path) as beside:
        fill(beside)
        assert folders.place(beside).name == "1"
    wrong[0] = errno.EIO
    with pytest.raises(OSError, match="not here"):
        folders.sync_folder(tmp_path)
