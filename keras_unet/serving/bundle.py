"""What is published of a model, in a folder of its own: made and proved before anyone serves it.

A pipeline makes it after training; `publish_bundle` gives it a number when it may be served.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import keras
import numpy as np

from keras_unet.data.encoded import MAX_PIXELS
from keras_unet.errors import ExportError
from keras_unet.models.bundle import TrainedModel, trained_model
from keras_unet.models.unet import structure
from keras_unet.remote_path import local_path
from keras_unet.serving import golden
from keras_unet.serving.card import CardFields, read_served_card, served_card, write_card
from keras_unet.serving.graph import Precision, mask_values, stored, write_saved_model
from keras_unet.serving.notes import LINEAGE, ROLLBACK
from keras_unet.serving.overlap import tiling


def write_bundle(
    model: TrainedModel,
    folder: str | Path,
    *,
    name: str,
    precision: Precision = "float32",
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    fields: CardFields | None = None,
) -> None:
    """Writes all that `export` publishes to `folder`, and compares it with the Keras model.

    The SavedModel, `assets/model_card.json`, `assets.extra/tf_serving_warmup_requests` (requests
    of each signature) and `assets.extra/golden.npz` (the probabilities they must give).

    Args:
        model: what `load_model` or `trained_model` returns.
        folder: not there yet, or empty.
        name: what the model will be served as: of the folder that it is published into.
        precision, tile, max_pixels: see `write_saved_model`.
        fields: what the model card says beside what training knows.

    Raises:
        ConfigError: an option is out of range.
        ExportError: the SavedModel does not load, or a signature differs from the Keras model
            with the same weights by more than 1e-5.
    """
    folder = local_path(folder)
    model = trained_model(model, float32=True)
    write_saved_model(model, folder, precision=precision, tile=tile, max_pixels=max_pixels)
    card = served_card(
        name,
        model.card,
        fields or CardFields(),
        values=tuple(mask_values(model.card).tolist()),
        precision=precision,
        tile=tiling(structure(model.network), tile).largest,
        max_pixels=max_pixels,
    )
    write_card(card, folder)
    requests = golden.requests(model, tile)
    golden.write_warmup(requests, card.name, folder)
    golden.write_expected(golden.expected(rounded(model, precision), requests), folder)
    check_bundle(folder)


def check_bundle(folder: Path) -> None:
    """Lets a fresh process answer a bundle's requests, and compares with what they must give.

    Raises:
        ExportError: it does not load, is damaged, or a signature differs by more than 1e-5.
    """
    values = [one.value for one in read_served_card(folder).classes]
    kind = np.uint8 if max(values) < 256 else np.uint16
    asked, probabilities = golden.signatures(folder), golden.read_expected(folder)
    given = golden.answers(folder)
    if not len(asked) == len(probabilities) == len(given):
        raise ExportError(
            f"{folder}: {len(asked)} warm-up requests, {len(probabilities)} expected answers and "
            f"{len(given)} given; expected as many of each"
        )
    try:
        found = golden.differences(asked, probabilities, np.array(values, kind), given)
    except (ValueError, IndexError) as error:  # of other images, other sizes
        raise ExportError(
            f"{folder / golden.EXPECTED}: does not fit the warm-up requests ({error})"
        ) from error
    for signature, largest in found.items():
        if not largest <= golden.TOLERANCE:
            raise ExportError(
                f"the SavedModel's {signature} differs from the Keras model by {largest:.2e}; "
                f"at most {golden.TOLERANCE:.0e} was expected; not published"
            )


def fingerprint(folder: str | Path) -> str:
    """A hash of a bundle or of a published version: equal for copies of the same model.

    Raises:
        ExportError: there is no SavedModel.
    """
    folder, found = Path(folder), hashlib.blake2b(digest_size=16)
    if not (folder / "saved_model.pb").is_file():
        raise ExportError(f"{folder}: no saved_model.pb in it; expected a SavedModel")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        if name in (ROLLBACK, LINEAGE):  # may differ between copies of the model
            continue
        found.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def rounded(model: TrainedModel, precision: Precision) -> TrainedModel:
    """The Keras model with the weights as a bundle of that precision stores them."""
    if precision == "float32":
        return model
    twin = keras.models.clone_model(model.network)
    twin.set_weights([stored(w, precision).astype(w.dtype) for w in model.network.get_weights()])
    return model._replace(network=twin)
