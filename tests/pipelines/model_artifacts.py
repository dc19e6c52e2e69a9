"""Artifacts for tests of the model side: records, a model that run_fn trained, and copies."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pipeline_records import write_records
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.types import standard_artifacts

from keras_unet.errors import ExportError
from keras_unet.models import save_model
from keras_unet.serving import bundle
from pipelines import models, trainer

NAME = "cells"
TRAIN = {
    "data": {"label_kind": "instances", "normalization": "image"},
    "model": {"filters": 2, "depth": 1},
    "steps": 4,
    "steps_per_epoch": 2,
    "augment": "none",
    "batch_size": 1,
    "precision": "float32",
    "learning_rate": 0.01,
}
_GROUPS = ("mouse1", "mouse1", "mouse2", "mouse2")


@functools.cache
def place() -> Path:
    """A folder for all tests of this process."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def examples() -> Any:
    """Records of two splits; those of `eval` belong to two groups."""
    import tensorflow as tf
    from pipeline_records import write

    folder = write_records(place() / "examples", {"Split-train": 3, "Split-eval": 4}, size=48)
    path = folder / "Split-eval" / "records.gz"
    grouped = []
    for data, group in zip(tf.data.TFRecordDataset(str(path), "GZIP"), _GROUPS, strict=True):
        example = tf.train.Example.FromString(data.numpy())
        example.features.feature["image/group"].bytes_list.value[:] = [group.encode()]
        grouped.append(example.SerializeToString())
    write(path, grouped)
    return artifact(standard_artifacts.Examples, folder, split_names='["train", "eval"]')


def artifact(kind: Any, folder: Path, number: int = 1, **properties: Any) -> Any:
    """An artifact as TFX hands it to an executor."""
    one = kind()
    one.uri, one.id = str(folder), number
    for key, value in properties.items():
        if key == "split_names":
            one.split_names = value
        elif isinstance(value, int):
            one.set_int_custom_property(key, value)
        else:
            one.set_string_custom_property(key, value)
    return one


def output(kind: Any, folder: Path) -> Any:
    folder.mkdir(parents=True)
    return artifact(kind, folder, 0)


def fn_args(folder: Path, runs: Path, train: dict[str, Any] = TRAIN, **more: Any) -> FnArgs:
    """What TFX's Trainer gives to run_fn; its outputs are in `folder`."""
    given = Path(examples().uri)
    return FnArgs(
        train_files=[f"{given}/Split-train/*"],
        eval_files=[f"{given}/Split-eval/*"],
        serving_model_dir=models.serving_folder(str(folder / "model")),
        model_run_dir=str(folder / "model_run"),
        custom_config=trainer.trainer_config(train, name=NAME, runs=str(runs)),
        **more,
    )


@functools.cache
def trained() -> Any:
    """The Model artifact of a short training, number 7; `model_run` is beside it."""
    folder = place() / "trained"
    trainer.run_fn(fn_args(folder, place() / "runs"))
    return artifact(standard_artifacts.Model, folder / "model", 7)


@contextlib.contextmanager
def answers_here() -> Iterator[None]:
    """Golden requests answered in this process: a fresh one, as it should be, takes seconds."""
    real, bundle.fresh_answers = bundle.fresh_answers, _answers
    try:
        yield
    finally:
        bundle.fresh_answers = real


def _answers(folder: Path) -> list[dict[str, np.ndarray]]:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    try:
        signatures = tf.saved_model.load(str(folder)).signatures
    except Exception as error:  # whatever a damaged folder makes TensorFlow raise
        raise ExportError(f"the SavedModel does not load: {error}") from error
    found = []
    for record in tf.data.TFRecordDataset(str(folder / bundle.WARMUP)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        outputs = signatures[request.model_spec.signature_name](**inputs)
        found.append({name: value.numpy() for name, value in outputs.items()})
    return found


def altered(folder: Path, number: int) -> Any:
    """Another Model artifact, in both forms: the trained one with its two classes swapped."""
    from keras_unet.serving import write_bundle

    model = models.load(trained().uri)
    last = model.network.layers[-1]
    last.set_weights([w[..., ::-1] for w in last.get_weights()])
    save_model(model, folder / models.KERAS / models.FILE)
    with answers_here():
        write_bundle(model, models.serving_folder(str(folder)), name=NAME)
    return artifact(standard_artifacts.Model, folder, number)


def exported(folder: Path, **options: Any) -> Any:
    """A copy of the trained model, exported with other options of `write_bundle`."""
    from keras_unet.serving import write_bundle

    one = copied(folder)
    place = models.serving_folder(one.uri)
    shutil.rmtree(place)
    with answers_here():
        write_bundle(models.load(one.uri), place, name=NAME, **options)
    return one


def copied(folder: Path, number: int = 7) -> Any:
    """A copy of the trained model, for a test to damage."""
    shutil.copytree(trained().uri, folder)
    return artifact(standard_artifacts.Model, folder, number)


def run(component: Any, inputs: dict[str, Any], outputs: dict[str, Any], **parameters: Any) -> None:
    """Calls a component's executor as TFX does."""
    listed = {key: [] if one is None else [one] for key, one in inputs.items()}
    executor = component.EXECUTOR_SPEC.executor_class()
    executor.Do(listed, {key: [one] for key, one in outputs.items()}, parameters)
