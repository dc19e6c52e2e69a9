"""Training runs in this process: where augmentation runs, seeds, splits, precision."""

from __future__ import annotations

import errno
import io

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from keras_unet.data.samples import Sample
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError, TrainingError
from keras_unet.machine import dtype_policy
from keras_unet.training import load_config, train
from keras_unet.training.build import class_names, tile_size
from keras_unet.training.config import TrainConfig
from keras_unet.training.splits import split

SMALL = [
    "model.filters=2",
    "model.depth=1",
    "steps=3",
    "steps_per_epoch=3",
    "data.label_kind=instances",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=1, size=(64, 64), seed=0)


def run(data, tmp_path, *settings):
    where = {"images": data / "train", "validation": data / "val"}
    config = load_config(None, [*SMALL, f"output={tmp_path}", *settings], data=where)
    return train(config, Console(file=io.StringIO()))


def test_verbose_0_prints_nothing(data, tmp_path, capfd):
    where = {"images": data / "train", "validation": data / "val"}
    config = load_config(None, [*SMALL, f"output={tmp_path}"], data=where)
    capfd.readouterr()
    result = train(config, verbose=0)
    assert result.evaluation.total["mean_dice"] >= 0
    printed, warned = capfd.readouterr()
    assert printed == "" and "Warning" not in warned


def test_augmentation_in_the_step_gives_what_the_pipeline_gives(data, tmp_path):
    """Same seed, same tiles, so the same weights after three steps, wherever tiles are drawn."""
    settings = ["augment=flips", "precision=float32", "optimizer=sgd", "learning_rate=0.05"]
    results = [
        run(data, tmp_path, f"augment_on={place}", f"name={place}", *settings)
        for place in ("cpu", "accelerator")
    ]
    first, second = (r.model.network.get_weights() for r in results)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    other = run(data, tmp_path, "augment_on=cpu", "name=other", "seed=1", *settings)
    assert np.abs(other.model.network.get_weights()[0] - first[0]).max() > 1e-3


def test_depth_1_has_no_level_to_supervise(data, tmp_path):
    result = run(data, tmp_path, "model.deep_supervision=true", "name=deep", "tile=44")
    assert np.isfinite(result.evaluation.total["mean_dice"])


def test_out_of_memory_says_what_to_make_smaller(data, tmp_path, monkeypatch):
    from keras_unet.training import loop

    def no_memory(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(loop, "run_loop", no_memory)
    with pytest.raises(TrainingError, match=r"out of memory. 2 tile.*smaller batch_size"):
        run(data, tmp_path, "name=large", "tile=44")


@pytest.mark.parametrize(("number", "taken"), [(errno.EAGAIN, True), (errno.ENOLCK, False)])
def test_a_file_system_without_locks_is_not_a_taken_run(tmp_path, monkeypatch, number, taken):
    from keras_unet import disk
    from keras_unet.training.run_folder import locked_run

    def flock(*_):
        raise OSError(number, "flock")

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    if taken:
        with (
            pytest.raises(ConfigError, match="another process is training"),
            locked_run(tmp_path),
        ):
            pass
    else:
        with locked_run(tmp_path):
            pass


def test_three_classes_rgb_and_added_losses(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for name in "abc":
        labels = np.kron(rng.integers(0, 3, (4, 5)), np.ones((16, 16))).astype(np.uint8)
        image = np.stack([60 * labels, 255 - 60 * labels, 0 * labels], -1)
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "data" / "labels" / f"{name}.png")
    settings = ["model.filters=4", "model.depth=1", "steps=2", "steps_per_epoch=1", "augment=none"]
    settings += ["loss.dice=0.5", "loss.focal=0.5", f"output={tmp_path}", "model.padding=same"]
    config = load_config(None, settings, data={"images": tmp_path / "data"})
    (tmp_path / "data" / "classes.txt").write_text("none\nred\nblue\n")
    console = Console(file=io.StringIO(), width=1000)
    result = train(config, console)
    assert result.model.card.classes == ("none", "red", "blue")
    said = f"class names: none, red, blue (from {tmp_path / 'data' / 'classes.txt'})"
    assert console.file.getvalue().splitlines().count(said) == 1
    assert set(result.evaluation.total["iou"]) == set(result.model.card.classes)
    assert len(result.evaluation.images) == 1  # a fifth of three, at least one


def test_nothing_is_written_before_the_data_is_sound(data, tmp_path):
    (data / "train" / "images" / "extra.png").write_bytes(b"no image")
    try:
        with pytest.raises(DataError, match=r"extra\.png"):
            run(data, tmp_path)
    finally:
        (data / "train" / "images" / "extra.png").unlink()
    assert not list(tmp_path.iterdir())


def test_the_split_is_seeded_and_leaves_both_sides_some():
    samples = [Sample(str(i), np.zeros((4, 4, 1), np.uint8)) for i in range(10)]
    training, validation = split(samples, 0.2, seed=3)
    assert (len(training), len(validation)) == (8, 2)
    assert {s.name for s in training} | {s.name for s in validation} == {s.name for s in samples}
    assert [s.name for s in split(samples, 0.2, seed=3)[1]] == [s.name for s in validation]
    assert len(split(samples[:2], 0.01, seed=0)[1]) == 1
    assert len(split(samples[:2], 0.99, seed=0)[0]) == 1
    with pytest.raises(ConfigError, match="cannot be split"):
        split(samples[:1], 0.2, seed=0)
    with pytest.raises(ConfigError, match=r"got 1\.5"):
        split(samples, 1.5, seed=0)


@pytest.mark.parametrize(
    ("side", "settings", "expected"),
    [
        (512, [], (572, 388)),
        (256, [], (444, 260)),
        (300, ["model.padding=same"], (288, 288)),
        (512, ["tile=252"], (252, 68)),
        (64, ["model.depth=1"], (80, 64)),
    ],
)
def test_the_tile_covers_a_usual_image_up_to_the_papers(side, settings, expected):
    config = load_config(None, settings, data={"images": "x"})
    samples = [Sample("a", np.zeros((side // 2, side, 1), np.uint8))]
    assert tile_size(config, samples) == expected


def test_class_names_must_fit_or_are_made_up(data):
    from keras_unet.data import LabelRule

    mapping = LabelRule().resolve([0, 1, 2])
    assert class_names(TrainConfig(data={"images": "x"}), mapping) == (
        "background",
        "class1",
        "class2",
    )
    config = TrainConfig(data={"images": "x", "class_names": ["a", "b"]})
    with pytest.raises(ConfigError, match="2 names.*3 classes"):
        class_names(config, mapping)


def test_precision():
    assert dtype_policy("float32")[0] == "float32"
    assert dtype_policy("bfloat16")[0] == "mixed_bfloat16"
    assert dtype_policy("auto")[0] in ("float32", "mixed_bfloat16")
