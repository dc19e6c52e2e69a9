"""The model without our server: called in this process, or behind KServe's Python server.

`python serve_peer.py bare FOLDER`: for each line of standard input, {"batch": n, "calls": n}, calls
the SavedModel and answers with the seconds of each call.

`python serve_peer.py kserve FOLDER PORT`: KServe's server with a model as its documentation writes
it, TensorFlow Serving's route /v1/models/unet:predict; signature "segment_bytes" for images that
are {"b64": …}. Arrays go to KServe's JSON encoder as they are, which is the fastest it offers.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def bare(folder: Path) -> None:
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    image = np.load(folder.parent / "image.npy", allow_pickle=False)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        batch = np.repeat(image, asked["batch"], axis=0)
        seconds = []
        for _ in range(asked["calls"]):
            start = time.perf_counter()
            served(images=tf.constant(batch))["probabilities"].numpy()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


def kserve_server(folder: Path, port: int) -> None:
    from kserve import Model, ModelServer

    class Unet(Model):
        """A custom model: load, predict."""

        def __init__(self) -> None:
            super().__init__("unet")
            self.load()

        def load(self) -> bool:
            self.loaded = tf.saved_model.load(str(folder))
            self.ready = True
            return True

        def predict(self, payload: dict[str, Any], headers: Any = None) -> dict[str, Any]:
            instances = payload["instances"]
            if isinstance(instances[0], dict):
                files = tf.constant([base64.b64decode(one["b64"]) for one in instances])
                found = self.loaded.signatures["segment_bytes"](image_bytes=files)["mask_bytes"]
                masks = [base64.b64encode(one).decode() for one in found.numpy()]
                return {"predictions": [{"b64": one} for one in masks]}
            images = tf.constant(np.array(instances, np.float32))
            found = self.loaded.signatures["serving_default"](images=images)
            return {"predictions": found["probabilities"].numpy()}

    model = Unet()
    server = ModelServer(http_port=port, enable_grpc=False, enable_latency_logging=False)
    server.start([model])


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        bare(Path(sys.argv[2]))
    else:
        kserve_server(Path(sys.argv[2]), int(sys.argv[3]))
