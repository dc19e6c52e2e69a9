"""Files that are whole or not there."""

from __future__ import annotations

import codecs
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keras_unet import disk
from keras_unet.errors import ConfigError


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_of_a_person(tmp_path, encoding, end):
    (tmp_path / "a.toml").write_bytes(f"name = 'é'{end}x = 1{end}".encode(encoding))
    assert disk.read_text(tmp_path / "a.toml") == "name = 'é'\nx = 1\n"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("é".encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + "é".encode("utf-16-be"), "UTF-16"),
        ("é".encode("utf-32"), "UTF-32"),
        ("a".encode("utf-16-le"), "no text, or UTF-16 without a mark (zero bytes)"),
        ("aé".encode("cp1252"), "no UTF-8 (byte 0xe9 at 1)"),
    ],
)
def test_text_in_another_encoding_is_named(tmp_path, data, found):
    (tmp_path / "a.toml").write_bytes(data)
    with pytest.raises(ConfigError) as error:
        disk.read_text(tmp_path / "a.toml")
    assert f"a.toml: is {found}; expected text in UTF-8" in str(error.value)


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), disk.replacing(tmp_path / "run") as beside:
        beside.mkdir()
        (beside / "config.toml").write_text("")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with disk.replacing(tmp_path / "run") as beside:
        beside.mkdir()
        (beside / "config.toml").write_text("new")
        assert beside.suffix == "" and not (tmp_path / "run").exists()
    assert (tmp_path / "run" / "config.toml").read_text() == "new"
    with pytest.raises(OSError), disk.replacing(tmp_path / "run") as beside:  # taken meanwhile
        beside.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with disk.replacing(tmp_path / "mask.png") as beside:
        assert beside.suffix == ".png"  # by which libraries choose a format
        beside.write_bytes(b"")


HOLD = """
import sys
from pathlib import Path
from keras_unet.disk import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_other_processes_out_until_they_end(tmp_path):
    def busy(owner):
        return ConfigError(f"{owner} is at work")

    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "held\n"
    with (
        pytest.raises(ConfigError, match=f"process {held.pid} is at work"),
        disk.locked(tmp_path, busy=busy),
    ):
        raise AssertionError
    held.kill()
    held.wait()
    with disk.locked(tmp_path, busy=busy), disk.locked(tmp_path, busy=busy, name="another"):
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()}"


def test_a_full_disk_keeps_nobody_out(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with disk.locked(tmp_path, busy=ConfigError):
        assert (tmp_path / ".lock").read_text() == ""


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", none)
    with disk.locked(tmp_path), disk.locked(tmp_path, busy=ConfigError):
        pass
    with (
        pytest.raises(ConfigError, match="no locks here"),
        disk.locked(tmp_path, without_locks=lambda error: ConfigError("no locks here")),
    ):
        pass
