"""`import keras_unet`, before or after Keras, is all that a file of its layers needs to open."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_unet
from keras_unet import diffusion, losses, metrics
from keras_unet.augment import Augment
from keras_unet.keras_backend import CLASSES, PACKAGE, StandIn
from keras_unet.models import build_unet
from keras_unet.training.step import FusedAdamW

# Each opens the files in a process of its own: compiled, in safe mode, in another order.
ORDERS = {
    "keras first": "import keras, keras_unet",
    "keras later, looked for before": """
import keras_unet, sys
assert not {"keras", "tensorflow", "numpy"} & set(sys.modules)
import importlib.util
assert importlib.util.find_spec("keras").loader.get_filename()
from keras_unet.losses import Focal
import keras
""",
    "tf.keras": "import keras_unet, tensorflow; keras = tensorflow.keras",
}
OPEN = """
import numpy as np, sys
for path in sys.argv[1:]:
    model = keras.models.load_model(path, safe_mode=True)
    assert keras.models.clone_model(model).count_params() == model.count_params()
    trained = keras_unet.load_model(path)
    image = np.random.default_rng(0).uniform(size=(30, 40))
    same = keras_unet.predict(model, image) - keras_unet.predict(trained, image)
    assert np.abs(same).max() < 1e-6
    assert type(model.loss).__module__.startswith("keras_unet."), model.loss
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two networks with all layers between them, compiled with losses, metrics and an optimizer."""
    folder = tmp_path_factory.mktemp("models")
    valid = build_unet(filters=2, depth=1, normalization="batch")
    same = build_unet(filters=2, depth=1, padding="same", upsampling="bilinear")
    mean_iou = metrics.MeanIoU(num_classes=2)
    adam = FusedAdamW(1e-3, weight_decay=1e-4)
    valid.compile(adam, losses.WeightedCrossEntropy(), metrics=[mean_iou])
    same.compile("adam", losses.Sum([losses.Focal(), losses.Dice()]), metrics=[metrics.Dice()])
    valid.fit(np.ones((1, 20, 20, 1)), np.ones((1, 4, 4)), verbose=0)
    same.fit(np.ones((1, 9, 9, 1)), np.ones((1, 9, 9)), verbose=0)
    valid.save(folder / "valid.keras")
    same.save(folder / "same.keras")
    return [folder / "valid.keras", folder / "same.keras"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_fresh_process_opens_the_files(order, files):
    command = [sys.executable, "-c", ORDERS[order] + OPEN, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_each_class_has_a_stand_in_and_takes_its_place():
    """None is forgotten, and none is there that no longer exists."""
    keras_unet.build_unet(filters=2, depth=1, upsampling="bilinear")
    assert {losses.Dice, losses.Focal, losses.Sum, metrics.IoU, FusedAdamW, Augment}  # imported now
    for module in pkgutil.iter_modules(diffusion.__path__):
        importlib.import_module(f"keras_unet.diffusion.{module.name}")
    known = {k: v for k, v in keras.saving.get_custom_objects().items() if k.startswith("keras_un")}
    assert set(known) == {f"{PACKAGE}>{name}" for name in CLASSES}
    for name, path in CLASSES.items():
        found = known[f"{PACKAGE}>{name}"]
        assert not isinstance(found, StandIn)
        assert f"{found.__module__}.{found.__qualname__}" == f"{PACKAGE}.{path}"
