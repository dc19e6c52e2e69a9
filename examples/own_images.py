"""From a folder of images and labels to numbered objects and a table of their sizes.

Writes own_images/: the data, the run (open its report.html), masks, objects and their tables.
"""

from pathlib import Path

import numpy as np

import keras_unet
from keras_unet.data import read_image, write_dataset
from keras_unet.inference import measure, to_instances
from keras_unet.training.config import make_config

folder = Path("own_images")
data = write_dataset(folder / "data", size=200)  # put your own images/ and labels/ in its place

# What is not set here is planned from the data and the machine.
config = make_config(
    {
        "data": {
            "images": data / "train",
            "validation": data / "val",
            "label_kind": "instances",  # or "semantic": labels are class numbers
        },
        "model": {"filters": 8, "depth": 3},
        "minutes": 0.5,  # an hour is a good start for real images
        "output": folder / "runs",
    }
)
result = keras_unet.train(config)
print("scores on the validation images:", result.evaluation.total["iou"])

image = read_image(data / "val/images/cells_000.png")
mask = keras_unet.predict(result.model, image).argmax(-1)
objects = to_instances(mask, split="neck", min_size=20)  # int32 [H, W]: 1, 2, 3 ...
table = measure(objects, image)  # columns of equal length, one entry an object
print(f"{objects.max()} objects, median area {np.median(table['area_px']):g} px")
print(f"report: {result.folder}/report.html")
