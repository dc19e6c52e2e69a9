"""Transform learns what `Normalization.fit` learns, and serving applies the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from pipeline_records import record
from tensorflow_transform.tf_metadata.dataset_metadata import DatasetMetadata
from tensorflow_transform.tf_metadata.metadata_io import write_metadata
from tensorflow_transform.tf_metadata.schema_utils import schema_as_feature_spec
from tfx_bsl.public import tfxio

import keras_unet
from keras_unet.data import Normalization
from keras_unet.errors import ConfigError, DataError
from keras_unet.models import TrainedModel, build_unet
from keras_unet.serving.graph import write_saved_model
from pipelines.checks.preprocessing import fitted_normalization, preprocessing_fn
from pipelines.checks.schema import adapted_schema
from pipelines.checks.settings import CheckSettings

SIZES = ((20, 24), (17, 31), (24, 24))


def pictures(kind: str) -> list[np.ndarray]:
    """Images of different sizes."""
    rng = np.random.default_rng(3)
    if kind == "uint8":
        return [rng.integers(0, 200, (*size, 1), dtype=np.uint8) for size in SIZES]
    if kind == "uint16":
        return [rng.integers(900, 1100, (*size, 1)).astype(np.uint16) for size in SIZES]
    if kind == "unit":
        return [rng.random((*size, 1), dtype=np.float32) for size in SIZES]
    if kind == "rgb":  # one channel is constant, and far from the others
        images = [rng.integers(0, 120, (*size, 3), dtype=np.uint8) for size in SIZES]
        return [np.concatenate([i[..., :2], np.full_like(i[..., :1], 0)], -1) for i in images]
    # raw floats, five channels, a mean that is huge beside the deviation
    images = [(1e5 + rng.normal(0, 3, (*size, 5))).astype(np.float32) for size in SIZES]
    if kind == "nodata":  # pixels that were never measured, in two of them
        images[0][:5] = images[2][3:7, 2:9] = np.nan
    return images


def serialised(images: list[np.ndarray]) -> list[bytes]:
    data = []
    for k, image in enumerate(images):
        labels = np.zeros(image.shape[:2], np.int32)
        labels[2:9, 3:8] = 1
        data.append(record(str(k), image, labels))
    return data


def schema_of(images: list[np.ndarray]):
    return adapted_schema(CheckSettings(channels=images[0].shape[-1]))


@pytest.fixture
def at_once(monkeypatch):
    """preprocessing_fn without Beam: the one batch is all there is to analyse."""

    def analyser(function):
        return lambda x, reduce_instance_dims=True, name=None: function(
            x, axis=None if reduce_instance_dims else 0
        )

    for name in ("sum", "mean", "min", "max"):
        monkeypatch.setattr(tft, name, analyser(getattr(tf, f"reduce_{name}")))

    def run(images: list[np.ndarray], method: str) -> Mapping[str, np.ndarray]:
        spec = schema_as_feature_spec(schema_of(images)).feature_spec
        config = {"channels": images[0].shape[-1], "normalization": method}

        @tf.function(autograph=False)
        def graph(data):
            found = preprocessing_fn(tf.io.parse_example(data, spec), config)
            return {name: found[name] for name in ("image/shift", "image/scale")}

        return {k: v.numpy() for k, v in graph(tf.constant(serialised(images))).items()}

    return run


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("uint8", "dataset"),
        ("uint16", "dataset"),
        ("rgb", "dataset"),
        ("float32", "dataset"),
        ("uint8", "range"),
        ("uint16", "range"),
        ("unit", "range"),
        ("uint16", "image"),
        ("float32", "image"),
        ("nodata", "dataset"),
        ("nodata", "image"),
    ],
)
def test_the_numbers_are_those_of_the_library(kind, method, at_once):
    images = pictures(kind)
    found = at_once(images, method)
    library = Normalization.fit(method, images)
    for k, image in enumerate(images):
        shift, scale = library.parameters(image)
        assert found["image/shift"].dtype == found["image/scale"].dtype == np.float32
        np.testing.assert_allclose(found["image/shift"][k], shift, rtol=1e-6)
        np.testing.assert_allclose(found["image/scale"][k], scale, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures("uint8") + pictures("uint16"), "full ranges 255 and 65535"),
        ([*pictures("unit"), np.full((9, 9, 1), 1.5, np.float32)], "values from .* to 1.5"),
    ],
)
def test_range_refuses_what_the_library_refuses(images, message, at_once):
    with pytest.raises(DataError):
        Normalization.fit("range", images)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        at_once(images, "range")


def test_an_image_of_other_channels_is_refused(at_once):
    with pytest.raises(tf.errors.InvalidArgumentError, match="channels expected: 1"):
        at_once([*pictures("uint8"), np.zeros((9, 9, 3), np.uint8)], "dataset")


def test_an_unknown_method_is_refused():
    with pytest.raises(ConfigError, match="dataset"):
        preprocessing_fn({}, {"channels": 1, "normalization": "zscore"})


def analysed(images: list[np.ndarray], method: str, folder: Path) -> tuple[str, dict]:
    """Through Beam, all but the last being the training split: (graph's folder, rows by name)."""
    schema = schema_of(images)
    reader = tfxio.TFExampleBeamRecord(physical_format="inmem", schema=schema)
    config = {"channels": images[0].shape[-1], "normalization": method}
    data = serialised(images)
    graph = str(folder / "graph")
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(folder / "tmp")):
        train = pipeline | "train" >> beam.Create(data[:-1]) | "parsed" >> reader.BeamSource()
        fitted = (train, reader.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing_fn(inputs, config)
        )
        _ = fitted | tft_beam.WriteTransformFn(graph)
        _ = DatasetMetadata(schema) | tft_beam.WriteMetadata(f"{graph}/metadata", pipeline)
    output = tft.TFTransformOutput(graph)
    raw = tf.io.parse_example(data, output.raw_feature_spec())
    found = output.transform_raw_features(raw)
    return graph, dict(found)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("float32", "dataset"),
        pytest.param("rgb", "dataset", marks=pytest.mark.slow),
        pytest.param("uint16", "range", marks=pytest.mark.slow),
        pytest.param("uint8", "image", marks=pytest.mark.slow),
    ],
)
def test_training_and_serving_share_the_graphs_numbers(kind, method, tmp_path, trained):
    images = pictures(kind)
    graph, found = analysed(images, method, tmp_path)
    fitted = fitted_normalization(graph)
    library = Normalization.fit(method, images[:-1])
    assert fitted.method == method
    for ours, theirs in ((fitted.mean, library.mean), (fitted.std, library.std)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert fitted.scale == library.scale
    shift, scale = found["image/shift"].numpy(), found["image/scale"].numpy()
    for k, image in enumerate(images):  # the last was not learnt from
        np.testing.assert_array_equal(shift[k], fitted.parameters(image)[0])
        np.testing.assert_allclose(scale[k], fitted.parameters(image)[1], rtol=1e-7)
    assert found["image/encoded"].numpy().tolist()  # passed on, as it was
    assert isinstance(found["label/values"], tf.SparseTensor)

    network = build_unet((None, None, images[0].shape[-1]), 2, filters=2, depth=1, padding="same")
    card = trained.card.model_copy(update={"normalization": fitted})
    write_saved_model(TrainedModel(network, card), tmp_path / "served")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    served = serve(images=tf.constant(images[2][None], tf.float32))["probabilities"].numpy()[0]
    nothing = (0.0,) * len(shift[2]), (1.0,) * len(shift[2])
    identity = Normalization(method="dataset", mean=nothing[0], std=nothing[1])
    seen = (images[2].astype(np.float32) - shift[2]) * scale[2]
    expected = keras_unet.predict(network, seen, normalization=identity)
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_a_graph_of_another_making_is_refused(tmp_path):
    schema = DatasetMetadata(adapted_schema(CheckSettings()))
    write_metadata(schema, str(tmp_path / "transformed_metadata"))
    with pytest.raises(DataError, match="image/shift"):
        fitted_normalization(str(tmp_path))
