"""A model published, served and called: an image in, a mask out.

Writes serve_and_call/saved_models/cells/1, which TensorFlow Serving takes as it is. The embedded
server speaks TensorFlow Serving's protocol; the same client calls either.
"""

from pathlib import Path

import keras_unet
from keras_unet.data import LabelRule, load_dataset, make_cells, write_dataset
from keras_unet.losses import WeightedCrossEntropy
from keras_unet.serving import Client
from keras_unet.serving.server import EmbeddedServer, ServerSettings

folder = Path("serve_and_call")
write_dataset(folder / "cells", size=200)
tiles = load_dataset(folder / "cells/train", rule=LabelRule(kind="instances"), tile=188, depth=3)
model = keras_unet.build_unet(filters=8, depth=3)
model.compile("adam", WeightedCrossEntropy())
model.fit(tiles, steps_per_epoch=20, epochs=2, shuffle=False, verbose=2)

version = keras_unet.export(model, folder / "saved_models/cells", normalization="image")
print("published", version)

image, _ = make_cells(300, seed=7)
settings = ServerSettings(folder=folder / "saved_models", grpc_port=0, rest_port=None)
with EmbeddedServer(settings) as server, Client(f"grpc://{server.grpc_address}") as client:
    (mask,) = client.segment("cells", [image])  # uint8 [H, W], 0 and 255
print(f"{mask.shape} pixels, {mask.mean() / 255:.0%} of them cell")
assert mask.shape == image.shape
