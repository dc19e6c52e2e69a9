"""Small SavedModels with the signatures of an export, and a server of them: made in a second."""

from __future__ import annotations

import io
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_unet.serving.server import EmbeddedServer, Limits, ServerSettings
from keras_unet.serving.server.settings import Batching


def write(folder: Path, scale: float = 1.0) -> Path:
    """A model that answers `scale` times the image, in two classes; NaN is refused, as exported."""
    module = tf.Module()
    module.scale = tf.Variable(scale)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1], tf.float32, "images")])
    def serving_default(images):
        finite = tf.reduce_all(tf.math.is_finite(images))
        with tf.control_dependencies([tf.debugging.Assert(finite, ["NaN or infinite values"])]):
            y = images * module.scale
        return {"probabilities": tf.concat([1 - y, y], -1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def segment_bytes(image_bytes):
        def one(data):
            return tf.io.encode_png(255 - tf.io.decode_png(data, 1))

        return {"mask_bytes": tf.map_fn(one, image_bytes)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32, "a"),
            tf.TensorSpec([None], tf.float32, "b"),
        ]
    )
    def two_inputs(a, b):
        return {"sum": tf.cast(a, tf.float32) + b, "name": tf.as_string(a)}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.string, "text")])
    def words(text):
        length = tf.strings.length(text, "UTF8_CHAR")
        return {
            "text": tf.strings.upper(text),
            "text_bytes": tf.strings.join([b"\xff\0", text]),
            "length": tf.cast(length, tf.int64) + 2**53,
            "long": length > 1,
            "half": tf.cast(length, tf.float16),
            "double": tf.cast(length, tf.float64) / 3,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def counted(text):
        return {"count": tf.size(text)}

    signatures = {
        "words": words,
        "counted": counted,
        "serving_default": serving_default,
        "segment_bytes": segment_bytes,
        "two_inputs": two_inputs,
    }
    beside = folder.with_name(f".unfinished-{folder.name}")
    tf.saved_model.save(module, str(beside), signatures)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return beside.rename(folder)


def publish_copy(of: Path, folder: Path) -> Path:
    """The same model under another name or number, appearing at once."""
    beside = folder.with_name(f".unfinished-{folder.name}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(of, beside)
    return beside.rename(folder)


def png(height: int, width: int, value: int = 0) -> bytes:
    """A grey PNG of one value."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((height, width), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def serving(folder: Path, **settings):
    """A server of `folder` on free ports, quick to notice new versions."""
    limits = Limits(**{"request_bytes": 1 << 20, "seconds": 20.0, **settings.pop("limits", {})})
    batching = Batching(**settings.pop("batching", {}))
    given = {"grpc_port": 0, "rest_port": 0, "poll_seconds": 0.05, "drain_seconds": 2.0}
    with EmbeddedServer(
        ServerSettings(folder=folder, limits=limits, batching=batching, **{**given, **settings})
    ) as server:
        yield server
