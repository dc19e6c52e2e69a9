"""Model artifacts: where one holds the SavedModel to serve, and the Keras model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfx.dsl.io import fileio
from tfx.utils import io_utils, path_utils

from keras_unet import run_layout
from keras_unet.errors import DataError
from keras_unet.models import TrainedModel, load_model

KERAS = "Format-Keras"  # beside TFX's Format-Serving and Format-TFMA
FILE = run_layout.BEST


def serving_folder(uri: str) -> str:
    """Of the SavedModel of a Model artifact."""
    return path_utils.serving_model_dir(uri)


def load(uri: str) -> TrainedModel:
    """The Keras model of a Model artifact.

    Raises:
        DataError: the artifact holds none.
    """
    path = f"{uri.rstrip('/')}/{KERAS}/{FILE}"
    if not fileio.exists(path):
        raise DataError(f"{path}: no such file; expected a model of the pipeline's Trainer")
    with local_copy(f"{uri.rstrip('/')}/{KERAS}") as folder:
        return load_model(folder / FILE)


def mounted(uri: str) -> str:
    """gs://bucket/x as /gcs/bucket/x where that is mounted, as on Vertex AI; others as they are."""
    if uri.startswith("gs://") and Path("/gcs").is_dir():
        return f"/gcs/{uri.removeprefix('gs://')}"
    return uri


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A folder as a local path: itself, or a copy of a remote one while the block lasts."""
    uri = mounted(uri)
    if "://" not in uri:
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        io_utils.copy_dir(uri, str(copy))
        yield copy


@contextlib.contextmanager
def local_output(uri: str) -> Iterator[Path]:
    """A local folder whose files are at `uri` when the block ends without an error."""
    uri = mounted(uri)
    if "://" not in uri:
        Path(uri).mkdir(parents=True, exist_ok=True)
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made")
        made.mkdir()
        yield made
        io_utils.copy_dir(str(made), uri)
