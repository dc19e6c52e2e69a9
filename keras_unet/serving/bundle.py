"""Bundle: a SavedModel with its card and its golden requests, compared with the Keras model.

A pipeline writes one after training; `publish_bundle` gives it a number when it may be served.
Golden requests are known images for each signature, which warm a server up and prove an export.
They are stored as TF Serving reads them, `assets.extra/tf_serving_warmup_requests`, a TFRecord of
PredictionLog. A fresh process without this package answers them from the SavedModel, and the
answers are compared with what `predict` gives, which is kept beside them: so a copy of the
SavedModel can be proved later, without Keras.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_unet.data.graph_images import MAX_PIXELS
from keras_unet.data.records import encode_example
from keras_unet.errors import ExportError
from keras_unet.inference.predictor import predict, to_classes
from keras_unet.models.decoding import Decoding
from keras_unet.models.keras_file import TrainedModel, trained_model
from keras_unet.models.unet import structure, whole_image_statistics
from keras_unet.remote_path import local_path
from keras_unet.serving.card import (
    LINEAGE,
    ROLLBACK,
    CardFields,
    WeightPrecision,
    read_served_card,
    served_card,
    write_card,
)
from keras_unet.serving.folders import SAVED_MODEL, WARMUP
from keras_unet.serving.graph import mask_values, stored, tiling, write_saved_model
from keras_unet.serving.protocol.objects import (
    DECODING,
    FULL,
    PROBABILITIES,
    decoding_tensors,
    to_probabilities,
)

EXPECTED = Path("assets.extra", "golden.npz")
GOLDEN_TOLERANCE = 1e-5
_DAMAGED = (zipfile.BadZipFile, zlib.error)  # beside what np.load and zipfile raise in general
# Runs without keras_unet: what a server will see.
_ANSWER = """
import sys
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

served = tf.saved_model.load(sys.argv[1]).signatures
with tf.io.TFRecordWriter(sys.argv[3]) as answers:
    for record in tf.data.TFRecordDataset(sys.argv[2]).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        inputs = {k: tf.constant(v) for k, v in inputs.items()}
        answer = predict_pb2.PredictResponse()
        for name, value in served[request.model_spec.signature_name](**inputs).items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        answers.write(answer.SerializeToString())
assert "keras_unet" not in sys.modules
"""


class GoldenRequest(NamedTuple):
    """One request, and the images in it as `predict` takes them; none ask how objects are found."""

    signature: str
    name: str  # of the input
    value: np.ndarray  # float32 [B, H, W, C], bytes [B], or int32 [B]
    images: list[np.ndarray]


def write_bundle(
    model: TrainedModel,
    folder: str | Path,
    *,
    name: str,
    precision: WeightPrecision = "float32",
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
    requests = golden_requests(model, tile)
    write_warmup(requests, card.name, folder)
    write_expected(expected_probabilities(rounded(model, precision), requests), folder)
    check_bundle(folder)


def check_bundle(folder: Path) -> None:
    """Lets a fresh process answer a bundle's requests, and compares with what they must give.

    Raises:
        ExportError: it does not load, is damaged, or a signature differs by more than 1e-5.
    """
    card = read_served_card(folder)
    values = [one.value for one in card.classes]
    kind = np.uint8 if max(values) < 256 else np.uint16
    asked, probabilities = warmup_signatures(folder), read_expected(folder)
    given = fresh_answers(folder)
    for number, signature in enumerate(asked):
        if signature == DECODING:  # is asked for no image
            probabilities.insert(number, [])
    if not len(asked) == len(probabilities) == len(given):
        raise ExportError(
            f"{folder}: {len(asked)} warm-up requests, {len(probabilities)} expected answers and "
            f"{len(given)} given; expected as many of each"
        )
    try:
        found = differences(
            asked, probabilities, np.array(values, kind), given, card.model.decoding
        )
    except (ValueError, IndexError) as error:  # of other images, other sizes
        raise ExportError(
            f"{folder / EXPECTED}: does not fit the warm-up requests ({error})"
        ) from error
    for signature, largest in found.items():
        if not largest <= GOLDEN_TOLERANCE:
            raise ExportError(
                f"the SavedModel's {signature} differs from the Keras model by {largest:.2e}; "
                f"at most {GOLDEN_TOLERANCE:.0e} was expected; not published"
            )


def check_version(folder: Path) -> None:
    """`check_bundle` of a published version, which may be an older one or none of this package.

    Where no golden requests were kept, that it loads is all that can be checked.

    Raises:
        ExportError: as `check_bundle`.
    """
    if (folder / EXPECTED).is_file():
        check_bundle(folder)
    else:
        fresh_answers(folder)


def fingerprint(folder: str | Path) -> str:
    """A hash of a bundle or of a published version: equal for copies of the same model.

    Raises:
        ExportError: there is no SavedModel.
    """
    folder, found = Path(folder), hashlib.blake2b(digest_size=16)
    if not (folder / SAVED_MODEL).is_file():
        raise ExportError(f"{folder}: no {SAVED_MODEL} in it; expected a SavedModel")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        if name in (ROLLBACK, LINEAGE):  # may differ between copies of the model
            continue
        found.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def rounded(model: TrainedModel, precision: WeightPrecision) -> TrainedModel:
    """The Keras model with the weights as a bundle of that precision stores them."""
    if precision == "float32":
        return model
    twin = keras.models.clone_model(model.network)
    twin.set_weights([stored(w, precision).astype(w.dtype) for w in model.network.get_weights()])
    return model._replace(network=twin)


def golden_requests(model: TrainedModel, tile: int | None = None) -> list[GoldenRequest]:
    """Seeded requests for each signature: odd sizes, unequal in a batch, larger than a tile."""
    form = structure(model.network)
    tiles = tiling(form, tile)
    normalization, trained = model.card.normalization, np.dtype(model.card.image_dtype)
    rng = np.random.default_rng(0)
    sizes = [(61, 83), (7, tiles.largest - tiles.form.lost + 30)]
    if whole_image_statistics(model.network):
        del sizes[1]  # its statistics are a tile's: several tiles give what their places make of it
    # An untouched input is small: of large ones a network rounds by more than `GOLDEN_TOLERANCE`.
    brightest = normalization.scale or (1.0 if normalization.method == "none" else 255.0)
    given = [rng.uniform(0, brightest, (*size, form.channels)).astype(np.float32) for size in sizes]
    found = [GoldenRequest("serving_default", "images", x[None], [x]) for x in given]
    kind = np.uint16 if trained == np.uint16 else np.uint8
    most = min(
        np.iinfo(kind).max, brightest if normalization.method in ("range", "none") else np.inf
    )
    files = [
        rng.integers(0, int(most) + 1, (*size, form.channels)).astype(kind)
        for size in ((61, 83), (40, 20))
    ]
    examples = [encode_example("golden", files[0]), encode_example("golden", given[0])]
    if form.channels in (1, 3):
        pngs = _strings(tf.io.encode_png(x).numpy() for x in files)
        for name in ("segment_bytes", PROBABILITIES):
            found.append(GoldenRequest(name, "image_bytes", pngs, files))
    found.append(
        GoldenRequest("segment_examples", "examples", _strings(examples), [files[0], given[0]])
    )
    if model.card.decoding is not None:
        found.append(GoldenRequest(DECODING, "request", np.zeros(2, np.int32), []))
    return found


def write_warmup(found: Sequence[GoldenRequest], model_name: str, folder: Path) -> None:
    """Stores the requests in the SavedModel in `folder`, where TF Serving looks for them."""
    path = folder / WARMUP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for request in found:
            asked = predict_pb2.PredictRequest()
            asked.model_spec.name = model_name
            asked.model_spec.signature_name = request.signature
            asked.inputs[request.name].CopyFrom(tf.make_tensor_proto(request.value))
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(asked)
            file.write(log.SerializeToString(deterministic=True))


def fresh_answers(folder: Path) -> list[dict[str, np.ndarray]]:
    """The SavedModel's outputs for its warm-up requests, computed by a fresh process, on the CPU.

    Raises:
        ExportError: it does not load, or fails.
    """
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "answers")
        warmup = folder.resolve() / WARMUP
        if not warmup.is_file():  # not ours: that it loads is what can be checked
            warmup = Path(work, "none")
            warmup.touch()
        command = [sys.executable, "-c", _ANSWER, str(folder.resolve()), str(warmup), str(path)]
        # on the CPU, and not beside this process on its GPU
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=env,
            cwd=work,
            check=False,
        )
        if done.returncode:
            raise ExportError(f"the SavedModel does not load: {done.stderr.strip()[-2000:]}")
        found = []
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            outputs = predict_pb2.PredictResponse.FromString(record).outputs
            found.append({name: tf.make_ndarray(value) for name, value in outputs.items()})
    return found


def expected_probabilities(
    model: TrainedModel, found: Sequence[GoldenRequest]
) -> list[list[np.ndarray]]:
    """The probabilities that `predict` gives, float32 [H, W, K], for each image of each request."""
    known: dict[int, np.ndarray] = {}  # several signatures are asked about the same image
    with _full_products():
        for request in found:
            for image in request.images:
                if id(image) not in known:
                    known[id(image)] = predict(model, image)
    return [[known[id(image)] for image in request.images] for request in found]


@contextlib.contextmanager
def _full_products() -> Iterator[None]:
    """Without TF32, by which a GPU rounds factors to 11 bits: more than `GOLDEN_TOLERANCE`."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def write_expected(found: Sequence[Sequence[np.ndarray]], folder: Path) -> None:
    """Stores the probabilities in the SavedModel in `folder`, in the order of the requests."""
    arrays = {f"{i:02d}-{j:02d}": one for i, each in enumerate(found) for j, one in enumerate(each)}
    np.savez_compressed(folder / EXPECTED, **arrays)  # type: ignore[arg-type]


def read_expected(folder: Path) -> list[list[np.ndarray]]:
    """What `write_expected` stored.

    Raises:
        ExportError: there is none, or it is damaged.
    """
    found: dict[str, list[np.ndarray]] = {}
    try:
        with np.load(folder / EXPECTED, allow_pickle=False) as archive:
            for name in sorted(archive.files):
                found.setdefault(name.partition("-")[0], []).append(archive[name])
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, *_DAMAGED) as error:
        raise ExportError(
            f"{folder / EXPECTED}: cannot be read ({error}); expected what write_bundle wrote"
        ) from error
    return list(found.values())


def warmup_signatures(folder: Path) -> list[str]:
    """The signature of each warm-up request of a SavedModel, in their order.

    Raises:
        ExportError: they are damaged.
    """
    try:
        logs = list(tf.data.TFRecordDataset(str(folder / WARMUP)).as_numpy_iterator())
        parsed = [prediction_log_pb2.PredictionLog.FromString(record) for record in logs]
    except (tf.errors.OpError, DecodeError) as error:
        raise ExportError(
            f"{folder / WARMUP}: damaged ({' '.join(str(error).split())[:200]}); expected what "
            "write_bundle wrote"
        ) from error
    return [log.predict_log.request.model_spec.signature_name for log in parsed]


def golden_differences(
    model: TrainedModel,
    found: Sequence[GoldenRequest],
    given: Sequence[dict[str, np.ndarray]],
    precision: WeightPrecision = "float32",
) -> dict[str, float]:
    """`differences` of the answers to requests from `predict`.

    Args:
        model: whose bundle was asked.
        found: the requests.
        given: each request's outputs.
        precision: of the weights in the bundle.
    """
    wanted = expected_probabilities(rounded(model, precision), found)
    asked, values = [r.signature for r in found], mask_values(model.card)
    return differences(asked, wanted, values, given, model.card.decoding)


def differences(
    asked: Sequence[str],
    probabilities: Sequence[Sequence[np.ndarray]],
    values: np.ndarray,
    given: Sequence[dict[str, np.ndarray]],
    decoding: Decoding | None = None,
) -> dict[str, float]:
    """The largest difference of probabilities, signature by signature.

    A mask counts as 1 where it shows another class, by more than rounding; so does a share that
    puts a pixel on the other side of the threshold of objects, or what is said of these.

    Args:
        asked: each request's signature. probabilities: see `expected_probabilities`.
        values: of a mask, class by class. given: each request's outputs. decoding: how objects are
            found; it counts where a request asks for it, as none does of older versions.
    """
    if DECODING not in asked:
        decoding = None
    worst: dict[str, float] = {}
    for signature, images, outputs in zip(asked, probabilities, given, strict=True):
        if signature == DECODING:
            worst[signature] = float(not _says(outputs, decoding))
        for i, wanted in enumerate(images):
            errors = [worst.get(signature, 0.0)]
            if "probabilities" in outputs:
                errors.append(_largest(outputs["probabilities"][i], wanted))
            if "probability_bytes" in outputs:
                shares = np.stack([_read(data) for data in outputs["probability_bytes"][i]], -1)
                errors.append(_shares_differ(shares, wanted, decoding))
            if "mask_bytes" in outputs:
                errors.append(_masks_differ(_read(outputs["mask_bytes"][i]), wanted, values))
            worst[signature] = max(errors)
    return worst


def _says(outputs: dict[str, np.ndarray], decoding: Decoding | None) -> bool:
    """Whether an answer of the signature `decoding` is that of its card, for each that asked."""
    if decoding is None:
        return False
    wanted = decoding_tensors(decoding)
    return outputs.keys() == wanted.keys() and all(
        list(outputs[name]) == [one] * max(1, len(outputs[name])) for name, one in wanted.items()
    )


def _shares_differ(shares: np.ndarray, expected: np.ndarray, decoding: Decoding | None) -> float:
    """By how much 16-bit probabilities differ, beyond what their rounding may do."""
    if shares.shape != expected.shape:
        return np.inf
    rounding = np.full(expected.shape[-1], 0.5)
    if decoding is not None:
        rounding[-1] = 1.0  # the threshold may lie between a probability and its nearest share
        threshold, given = decoding.threshold, to_probabilities(shares[..., -1])
        sure = np.abs(expected[..., -1] - threshold) > GOLDEN_TOLERANCE
        if np.any(((given > threshold) != (expected[..., -1] > threshold))[sure]):
            return 1.0
    return max(
        _largest(shares[..., k] / FULL, expected[..., k]) - rounding[k] / FULL
        for k in range(len(rounding))
    )


def _masks_differ(mask: np.ndarray, expected: np.ndarray, values: np.ndarray) -> float:
    if mask.shape != expected.shape[:2] or mask.dtype != values.dtype:
        return np.inf
    if expected.shape[-1] == 1:
        sure = np.abs(expected[..., 0] - 0.5) > GOLDEN_TOLERANCE
    else:
        first, second = np.sort(expected, -1)[..., :-3:-1].transpose(2, 0, 1)
        sure = first - second > 2 * GOLDEN_TOLERANCE
    return float(np.any(mask[sure] != values[to_classes(expected)][sure]))


def _largest(given: np.ndarray, expected: np.ndarray) -> float:
    if given.shape != expected.shape:
        return np.inf
    found = float(np.abs(given - expected).max())
    return np.inf if np.isnan(found) else found  # `max` would pass over NaN


def _read(data: bytes) -> np.ndarray:
    array = np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))
    return array.astype(np.uint16) if array.dtype == np.int32 else array


def _strings(items: Any) -> np.ndarray:
    return np.array(list(items), object)
