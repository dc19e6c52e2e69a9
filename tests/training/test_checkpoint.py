"""Checkpoints on a disk that tears, fills up and forgets."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from keras_unet import run_layout
from keras_unet.errors import TrainingError
from keras_unet.training import checkpoint as module
from keras_unet.training.checkpoint import Checkpoints

ARRAYS = [np.arange(1000, dtype=np.float32), np.array(7, np.int64), np.zeros((2, 0), np.uint32)]


def names(run):
    return sorted(path.name for path in (run / run_layout.CHECKPOINTS).iterdir())


def written(run, count):
    made = Checkpoints(run)
    return made, [made.write(step, ARRAYS, {"step": step}) for step in range(count)]


def test_what_is_written_is_read_and_the_last_two_are_kept(tmp_path):
    assert Checkpoints(tmp_path).read() is None
    _, paths = written(tmp_path, 4)
    assert names(tmp_path) == sorted(path.name for path in paths[2:])
    found = Checkpoints(tmp_path).read()
    assert found.path == paths[3]
    assert found.state == {"step": 3}
    for a, b in zip(found.arrays, ARRAYS, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("damage", ["torn", "empty", "one bit"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(tmp_path, damage):
    _, paths = written(tmp_path, 2)
    content = bytearray(paths[1].read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 1
    paths[1].write_bytes({"torn": content[:-100], "empty": b""}.get(damage, content))
    again = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match=f"{paths[1].name}.*corrupt"):
        found = again.read()
    assert found.path == paths[0]
    third = again.write(2, ARRAYS, {})
    assert names(tmp_path) == sorted([paths[0].name, third.name])  # the two that are whole


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    """Be it in an array, in its header, or in the archive's directory, which has no checksum."""
    arrays = [np.arange(8, dtype=np.float32), np.array(7, np.int64)]
    [path] = [Checkpoints(tmp_path).write(0, arrays, {"step": 0})]
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            found = module._read(path)
        except module._Corrupt:
            noticed += 1
        else:  # a time stamp, say
            assert found.state == {"step": 0}
            assert [a.tobytes() for a in found.arrays] == [a.tobytes() for a in arrays]
    assert noticed > len(whole) / 2


def test_without_a_whole_one_the_run_cannot_go_on(tmp_path):
    _, paths = written(tmp_path, 2)
    for path in paths:
        path.write_bytes(path.read_bytes()[:50])
    with (
        pytest.warns(UserWarning, match="checkpoint"),
        pytest.raises(TrainingError, match="no checkpoint is whole") as caught,
    ):
        Checkpoints(tmp_path).read()
    assert all(path.name in str(caught.value) for path in paths)


@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_ones_before(tmp_path, monkeypatch, where):
    made, paths = written(tmp_path, 2)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write":
        monkeypatch.setattr(module.np, "savez", full)
    elif where == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(module.Path, "replace", full)
    with pytest.raises(TrainingError, match="No space left") as caught:
        made.write(2, ARRAYS, {})
    assert paths[1].name in str(caught.value)
    assert f"--resume {tmp_path}" in str(caught.value)
    assert names(tmp_path) == sorted(path.name for path in paths)
    monkeypatch.undo()
    assert Checkpoints(tmp_path).read().path == paths[1]


def test_a_pickle_is_not_read(tmp_path):
    made, _ = written(tmp_path, 0)
    path = made.write(0, [np.array([{"a": 1}], object)], {})
    with pytest.warns(UserWarning, match="unreadable"), pytest.raises(TrainingError):
        Checkpoints(tmp_path).read()
    assert path.is_file()


def test_writing_takes_at_most_its_share_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def slow(*_):
        clock[0] += 2.0
        return "0" * 32

    made = Checkpoints(tmp_path)
    assert made.due()  # nothing is known of the cost yet
    real = module._write
    monkeypatch.setattr(module, "_write", lambda *a: (real(*a), slow())[0])
    made.write(0, ARRAYS, {})
    for seconds, due in ((199.0, False), (1.1, True)):
        clock[0] += seconds
        assert made.due() == due
    assert not made.due(seconds=300)
