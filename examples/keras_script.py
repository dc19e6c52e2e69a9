"""The paper's network, loss and augmentation in a Keras script: build, fit, predict.

Writes keras_script/cells.keras, and keras_script/overlay.png: the mask of an image not seen.
"""

from pathlib import Path

import numpy as np
from PIL import Image

import keras_unet
from keras_unet.data import LabelRule, load_dataset, read_image, write_dataset
from keras_unet.losses import WeightedCrossEntropy
from keras_unet.metrics import MeanIoU

folder = Path("keras_script")
write_dataset(folder / "cells", size=200)  # train/ and val/, each with images/ and labels/

# Tiles of 188 pixels, augmented as in the paper: 188 go in, the middle 100 come out.
tiles = load_dataset(
    folder / "cells/train",
    rule=LabelRule(kind="instances"),  # every number in a label image is one cell
    tile=188,
    depth=3,
    augment="paper",
)
model = keras_unet.build_unet((None, None, 1), num_classes=2, filters=8, depth=3)
model.compile("adam", WeightedCrossEntropy(), weighted_metrics=[MeanIoU()])
model.fit(tiles, steps_per_epoch=20, epochs=3, shuffle=False, verbose=2)

# `load_dataset` normalised each image by itself; the file says so, and prediction does the same.
keras_unet.save_model(
    model, folder / "cells.keras", normalization="image", class_names="background,cell"
)
model = keras_unet.load_model(folder / "cells.keras")
image = read_image(folder / "cells/val/images/cells_000.png")
probabilities = keras_unet.predict(model, image)  # [H, W, classes], for an image of any size
mask = probabilities.argmax(-1)
Image.fromarray(keras_unet.evaluation.overlay(image, mask)).save(folder / "overlay.png")
print(f"{mask.mean():.0%} of {image.shape[:2]} pixels are cell: see {folder}/overlay.png")
assert np.allclose(probabilities.sum(-1), 1, atol=1e-4)
