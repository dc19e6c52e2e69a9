"""A prediction that was stopped goes on, and ends with the same bytes."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from keras_unet.inference import predict_files
from keras_unet.inference.files import segmentation, state
from keras_unet.inference.files.state import read_record

OPTIONS = {"tile": 60, "probabilities": True, "preview": 64}
ALL = 99  # rows of tiles


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from conftest import make_trained

    from keras_unet.models import TrainedModel, build_unet, save_model

    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    return save_model(TrainedModel(network, make_trained().card), path)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Two slices of 300 x 110 pixels: 14 rows of three tiles."""
    path = tmp_path_factory.mktemp("images") / "cells.tif"
    image = np.random.default_rng(0).integers(0, 255, (2, 300, 110), np.uint8)
    tifffile.imwrite(path, image, metadata={"axes": "ZYX"}, tile=(64, 64), compression="zlib")
    return path


@pytest.fixture(scope="module")
def uninterrupted(model, stack, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    predict_files(model, stack, out, **OPTIONS)
    return contents(out)


def contents(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


class Stopped(BaseException):
    """As sudden as a kill: nothing in the code catches it."""


def stop_at(monkeypatch, place, name, number, *, before):
    """Raises before or after the `number`-th call."""
    calls = []
    original = getattr(place, name)

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number and before:
            raise Stopped
        result = original(*args, **kwargs)
        if len(calls) == number:
            raise Stopped
        return result

    monkeypatch.setattr(place, name, call)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("place", "name", "number", "tiles_kept"),
    [
        *((segmentation, "write_record", number, number) for number in (1, 7, 13)),
        (segmentation, "_save", 1, 13),
        (segmentation, "_save", 2, 13),
        (segmentation, "save_png", 2, 13),
        (segmentation, "write_record", 14, 13),  # the one that says: finished
        (state.Workplace, "publish", 1, ALL),
        (state, "remove", 4, ALL),  # the mask is in its place
        (state.Workplace, "clear", 2, ALL),  # the first: before anything is computed
    ],
)
def test_stopped_at_any_moment(
    model, stack, uninterrupted, tmp_path, monkeypatch, place, name, number, tiles_kept, before
):
    stop_at(monkeypatch, place, name, number, before=before)
    with pytest.raises(Stopped):
        predict_files(model, stack, tmp_path, **OPTIONS)
    monkeypatch.undo()
    found = contents(tmp_path)
    assert all(uninterrupted[name] == found[name] for name in found)  # whole, or not there
    done, said = [], []
    again = predict_files(
        *(model, stack, tmp_path),
        **OPTIONS,
        progress=lambda tiles, total: done.append(tiles),
        say=said.append,
    )
    assert contents(tmp_path) == uninterrupted
    assert {path.name for path in (tmp_path / ".predict").iterdir()} == {"lock", "cells.json"}
    if tiles_kept == ALL or (number == 14 and not before):
        assert again.skipped and not done  # nothing is computed again
        return
    rows_kept = tiles_kept - (before and name == "write_record" and number <= 13)
    if rows_kept:
        assert any("goes on at row" in text for text in said)
    # no tile is computed again; 21 tiles are a slice, which may be passed over
    assert {count for count in done if count <= 3 * rows_kept} <= {21}
    assert done[-1] == 42


DRIVER = """
import sys, time
from keras_unet.inference import predict_files
def progress(done, total):
    print("tiles", done, flush=True)
    time.sleep(0.05)
predict_files(*sys.argv[1:4], tile=60, probabilities=True, preview=64, progress=progress, say=print)
"""


def test_killed(model, stack, uninterrupted, tmp_path):
    """kill -9 of real processes, then the rest; each goes on from the rows before."""
    kept = []
    for tiles in (8, 20):
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(model), str(stack), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            if line.startswith("tiles") and int(line.split()[1]) >= tiles:
                process.send_signal(signal.SIGKILL)
                break
        process.wait(timeout=60)
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
        record = read_record(tmp_path / ".predict" / "cells.json")
        assert record.results is None
        kept.append((record.page, record.row))
        assert not contents(tmp_path)
    assert (0, 0) < kept[0] < kept[1]
    predict_files(model, stack, tmp_path, **OPTIONS)
    assert contents(tmp_path) == uninterrupted


def test_what_is_finished_is_skipped_unless_something_changed(model, stack, tmp_path):
    options = {"tile": 60, "overlays": False}
    image = tmp_path / "cells.tif"
    image.write_bytes(stack.read_bytes())
    out = tmp_path / "out"

    def again(model=model, **changes):
        said = []
        done = predict_files(model, image, out, **{**options, **changes}, say=said.append)
        return [p.name for p in done.written], " ".join(said)

    assert again()[0] == ["cells_mask.tif"]
    assert again()[0] == []
    assert "1 of 1 done already" in again(memory=10**9, batch_size=2)[1]  # the same result
    assert again(overwrite=True)[0] == ["cells_mask.tif"]
    written, said = again(threshold=0.3)
    assert written
    assert "cells.tif: begins anew, changed since: threshold" in said
    assert not again(threshold=0.3)[0]
    assert "changed since: threshold" in again()[1]

    (out / "cells_mask.tif").unlink()
    assert "its results were removed" in again()[1]

    copy = tmp_path / "copy.keras"
    copy.write_bytes(model.read_bytes())
    assert not again(copy)[0]  # the same model elsewhere
    with copy.open("ab") as file:
        file.write(b"\0")
    assert "changed since: model" in again(copy)[1]
    tifffile.imwrite(image, np.zeros((2, 300, 110), np.uint8), metadata={"axes": "ZYX"})
    assert "changed since: input" in again(copy)[1]


def test_an_option_changed_in_between_starts_again(
    model, stack, uninterrupted, tmp_path, monkeypatch
):
    stop_at(monkeypatch, segmentation, "write_record", 5, before=False)
    with pytest.raises(Stopped):
        predict_files(model, stack, tmp_path, **{**OPTIONS, "threshold": 0.9})
    monkeypatch.undo()
    said = []
    predict_files(model, stack, tmp_path, **OPTIONS, say=said.append)
    assert "cells.tif: begins anew, changed since: threshold" in said
    assert contents(tmp_path) == uninterrupted


def test_the_tile_of_the_first_run_is_kept(model, stack, tmp_path, monkeypatch):
    """Without `tile`, memory decides; what is free may differ when a run goes on."""
    whole = tmp_path / "whole"
    predict_files(model, stack, whole, probabilities=True, memory=700_000)
    stop_at(monkeypatch, segmentation, "write_record", 2, before=False)
    with pytest.raises(Stopped):
        predict_files(model, stack, tmp_path / "out", probabilities=True, memory=700_000)
    monkeypatch.undo()
    tile = read_record(tmp_path / "out" / ".predict" / "cells.json").tile
    assert max(tile) < 200
    predict_files(model, stack, tmp_path / "out", probabilities=True, memory=10**9)
    assert contents(tmp_path / "out") == contents(whole)
