"""Packing of a trained model into a small `.keras` file, as those that come with the package are.

It is a file of Keras like every other, and computes in float32. Its kernels are stored in half
precision and compressed, which HDF5 undoes as they are read: 16 filters take 3.4 MB.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import h5py
import numpy as np

from keras_unet.disk import replacing
from keras_unet.errors import ConfigError
from keras_unet.models.decoding import Decoding
from keras_unet.models.keras_file import load_model, write_with_card
from keras_unet.models.model_card import Release
from keras_unet.models.pretrained.catalogue import FOLDER, SUFFIX

_WEIGHTS, _METADATA = "model.weights.h5", "metadata.json"
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # the date of every member, so that equal models are equal bytes


def pack(
    model: str | Path,
    name: str,
    release: Release,
    *,
    folder: str | Path = FOLDER,
    diameter: float | None = None,
    diameter_range: tuple[float, float] | None = None,
    objects: Decoding | None = None,
) -> Path:
    """Writes `folder`/`name`.keras; in the folder of this package, `load_model(name)` finds it.

    Kernels, arrays of two or more axes, are rounded to float16; biases and normalization stay
    float32. The card is the model's under the new name, with the release, and of absolute paths in
    its settings the last two parts only. The same model and card give the same bytes.

    Args:
        model: a run folder or a `.keras` file.
        name: without a suffix.
        release: what it is for; see there.
        diameter: of the training objects in pixels, where the card does not say it; None: the
            median that the data check measured, if it did. diameter_range: likewise.
        objects: how probabilities become objects; None: as the card says.

    Raises:
        ConfigError: the name is none. DataError: no trained model there, or no card in it.
    """
    if PurePath(name).name != name or PurePath(name).suffix:
        raise ConfigError(f"name is {name!r}; expected a name without folder and suffix")
    trained = load_model(model)
    if trained.card.source != "train":
        raise ConfigError(f"{model}: not trained by this package, so its card can't say how")
    measured = (trained.card.data.get("diameter") or {}).get("median")
    card = trained.card.model_copy(
        update={
            "format": 2,
            "name": name,
            "release": release,
            "diameter": trained.card.diameter or diameter or measured,
            "diameter_range": trained.card.diameter_range or diameter_range,
            "objects": objects or trained.card.objects,
            "config": _portable(trained.card.config),
        }
    )
    target = Path(folder, name + SUFFIX)
    with tempfile.TemporaryDirectory() as work:
        whole = write_with_card(trained.network, card, Path(work, target.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside:
            _compact(whole, beside, datetime.fromisoformat(card.created))
    return target


def _compact(whole: Path, small: Path, created: datetime) -> None:
    """Copies a `.keras` file with half the precision, and without what two copies differ in."""
    with (
        zipfile.ZipFile(whole) as old,
        zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new,
    ):
        for member in sorted(old.namelist()):
            data = old.read(member)
            if member == _WEIGHTS:
                data = _rounded(data)
            elif member == _METADATA:
                saved = {"date_saved": f"{created:%Y-%m-%d@%H:%M:%S}"}
                data = json.dumps({**json.loads(data), **saved}).encode()
            new.writestr(zipfile.ZipInfo(member, _BEGINNING), data, zipfile.ZIP_DEFLATED)


def _rounded(weights: bytes) -> bytes:
    """An HDF5 file's arrays, those of two or more axes in float16 and compressed."""
    written = io.BytesIO()
    with h5py.File(io.BytesIO(weights)) as old, h5py.File(written, "w") as new:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                made = new.require_group(name)
            elif item.ndim < 2:
                made = new.create_dataset(name, data=item[()])
            else:
                made = new.create_dataset(
                    name,
                    data=item[()].astype(np.float16),
                    chunks=item.shape,
                    compression="gzip",
                    compression_opts=9,
                    shuffle=True,
                )
            for key, value in item.attrs.items():
                made.attrs[key] = value

        old.visititems(copy)
    return written.getvalue()


def _portable(settings: Any) -> Any:
    """Settings with the last two parts of absolute paths: the rest is of one machine."""
    if isinstance(settings, dict):
        return {key: _portable(value) for key, value in settings.items()}
    if isinstance(settings, str) and PurePath(settings).is_absolute():
        return str(PurePath(*PurePath(settings).parts[-2:]))
    return settings
