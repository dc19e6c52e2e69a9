"""Publishes into a folder again and again, and is killed: `python killed_publisher.py FOLDER`.

Reads delays in seconds, one a line; for each it forks a publisher, kills it (SIGKILL) after so
long, or lets it end ("none"), and prints "killed" or its exit code, and how long it lived.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import tensorflow as tf
from conftest import make_trained

from keras_unet.models import build_unet
from keras_unet.serving import bundle, export


def in_this_process(folder):
    """`golden.answers` without a process of its own, which is most of the time."""
    from tensorflow_serving.apis import prediction_log_pb2

    signatures = tf.saved_model.load(folder).signatures
    found = []
    for record in tf.data.TFRecordDataset(str(folder / bundle.WARMUP)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        outputs = signatures[request.model_spec.signature_name](**inputs)
        found.append({name: value.numpy() for name, value in outputs.items()})
    return found


def publish(folder: Path) -> None:
    bundle.fresh_answers = in_this_process
    trained = make_trained()._replace(network=build_unet((None, None, 1), 2, filters=2, depth=1))
    export(trained, folder, keep=2)


for line in sys.stdin:
    start = time.monotonic()
    child = os.fork()  # before TensorFlow has started a thread
    if child == 0:
        publish(Path(sys.argv[1]))
        os._exit(0)
    ended = 0
    if line.strip() != "none":
        while not ended and time.monotonic() - start < float(line):
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            os.kill(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    outcome = "killed" if os.WIFSIGNALED(status) else str(os.waitstatus_to_exitcode(status))
    print(outcome, time.monotonic() - start, flush=True)
