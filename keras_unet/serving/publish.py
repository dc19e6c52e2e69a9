"""`export`: publishes a model as the next version of a folder that TF Serving watches.

TF Serving takes any folder with an integer name for a version, complete or not. So a version is
written beside, under a name that is no integer, loaded in a process of its own and compared with
the Keras model, and only then renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_unet.errors import ExportError
from keras_unet.inference.prediction import predict
from keras_unet.models.bundle import TrainedModel, load_model
from keras_unet.models.unet import structure
from keras_unet.serving.graph import write_saved_model

UNFINISHED = ".unfinished-"
TOLERANCE = 1e-5

# Runs without keras_unet on its path: what a server will see.
_LOAD = """
import sys
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
image = np.load(sys.argv[2], allow_pickle=False)
np.save(sys.argv[3], served(images=tf.constant(image))["probabilities"].numpy())
assert "keras_unet" not in sys.modules
"""


def export(model: TrainedModel | str | Path, folder: str | Path) -> Path:
    """Publishes `model` as `folder`/<n>, n one more than the newest version there.

    Args:
        model: what `load_model` returns, or the run folder or `.keras` file it takes.
        folder: such as "saved_models/unet"; made if absent.

    Returns:
        The published version's folder: a SavedModel and `assets.extra/model_card.json`.

    Raises:
        DataError: there is no trained model at the path.
        ExportError: the SavedModel does not load, or differs from the Keras model by more than
            1e-5; nothing is published then.
    """
    if not isinstance(model, TrainedModel):
        model = load_model(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        for left in folder.glob(f"{UNFINISHED}*"):  # a killed publish; the lock says it is dead
            shutil.rmtree(left)
        beside = folder / f"{UNFINISHED}{os.getpid()}"
        try:
            write_saved_model(model, beside)
            extra = beside / "assets.extra"
            extra.mkdir()
            (extra / "model_card.json").write_text(
                model.card.model_dump_json(indent=1) + "\n", encoding="utf-8"
            )
            _compare(model, beside)
            _sync(beside)
            version = folder / str(max(versions(folder), default=0) + 1)
            beside.rename(version)
            _sync_folder(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return version


def versions(folder: str | Path) -> list[int]:
    """The published versions in `folder`, ascending: what TF Serving would find."""
    return sorted(
        int(entry.name)
        for entry in Path(folder).iterdir()
        if entry.is_dir() and entry.name.isascii() and entry.name.isdigit()
    )


def _compare(model: TrainedModel, folder: Path) -> None:
    """Loads the SavedModel in a fresh process and compares it on a seeded image of odd size."""
    channels = structure(model.network).channels
    rng = np.random.default_rng(0)
    brightest = model.card.normalization.scale or 255.0
    image = rng.uniform(0, brightest, (61, 83, channels)).astype(np.float32)
    expected = predict(model, image)
    with tempfile.TemporaryDirectory() as work:
        given, got = Path(work, "image.npy"), Path(work, "probabilities.npy")
        np.save(given, image[None])
        command = [sys.executable, "-c", _LOAD, str(folder.resolve()), str(given), str(got)]
        # on the CPU, and not beside this process on its GPU
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=work, check=False
        )
        if done.returncode:
            raise ExportError(f"the SavedModel does not load: {done.stderr.strip()[-2000:]}")
        served = np.load(got, allow_pickle=False)[0]
    difference = float(np.abs(served - expected).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the SavedModel differs from the Keras model by {difference:.2e}; "
            f"at most {TOLERANCE:.0e} was expected; not published"
        )


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        else:
            _sync_folder(file)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
