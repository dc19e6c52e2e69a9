"""Loading checked samples, from made files and from real ones."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data import LabelRule, load_samples
from keras_unet.errors import DataError


def test_semantic_samples_from_stacks(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60000, (3, 12, 13)).astype(np.uint16)
    labels = (rng.random((3, 12, 13)) > 0.5).astype(np.uint8) * 255
    tifffile.imwrite(tmp_path / "em.tif", images, photometric="minisblack")
    tifffile.imwrite(tmp_path / "truth.tif", labels, photometric="minisblack")
    samples, report = load_samples(tmp_path / "em.tif", tmp_path / "truth.tif")
    assert [s.name for s in samples] == ["em:000", "em:001", "em:002"]
    assert report.notes == ("label values 0 and 255 are read as classes 0 and 1",)
    for k, sample in enumerate(samples):
        assert sample.image.dtype == np.uint16 and sample.classes.dtype == np.int32
        np.testing.assert_array_equal(sample.image[..., 0], images[k])
        np.testing.assert_array_equal(sample.classes, labels[k] // 255)
        assert sample.instances is None


def test_instances_keep_touching_cells_apart(tmp_path):
    labels = np.zeros((8, 9), np.uint16)
    labels[1:4, 1:4], labels[1:4, 4:7] = 5, 900
    for kind, array in (("images", labels.astype(np.uint8)), ("labels", labels)):
        (tmp_path / kind).mkdir()
        Image.fromarray(array).save(tmp_path / kind / "a.png")
    (sample,), _ = load_samples(tmp_path, rule=LabelRule(kind="instances"))
    np.testing.assert_array_equal(sample.instances, labels)
    np.testing.assert_array_equal(sample.classes, labels > 0)
    assert sample.instances.dtype == sample.classes.dtype == np.int32


def test_images_alone(tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    (sample,), report = load_samples(tmp_path / "a.png")
    assert sample.classes is None and sample.instances is None and report.mapping is None
    with pytest.raises(DataError, match="there are no labels"):
        load_samples(tmp_path / "a.png", need_labels=True)


def test_tensorflow_is_not_imported():
    code = (
        "import sys; from keras_unet.data import make_cells, find_pairs, load_samples; "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "kind", "count", "channels", "objects"),
    [
        ("isbi2012/val", "semantic", 4, 1, None),
        ("axon_sem/val", "semantic", 1, 1, None),
        ("dsb2018_fluo/train", "instances", 70, 1, 2639),
        ("dsb2018_fluo/val520", "instances", 6, 1, 783),
        ("dsb2018_rgb/val", "instances", 8, 3, None),
    ],
)
def test_real_sets(shared, name, kind, count, channels, objects):
    samples, report = load_samples(shared / "data" / name, rule=LabelRule(kind=kind))
    assert len(samples) == count
    assert all(s.image.shape[2] == channels and s.image.dtype == np.uint8 for s in samples)
    assert all(s.classes.shape == s.image.shape[:2] for s in samples)
    assert report.mapping.num_classes == (3 if "axon" in name else 2)
    assert (report.notes != ()) == ("isbi" in name)  # 0/255, and nothing else to say
    if objects is not None:
        assert report.summary.cells_total == objects


def test_real_instances_are_refused_as_classes(shared):
    with pytest.raises(DataError, match=r'set data\.label_kind = "instances"'):
        load_samples(shared / "data/dsb2018_fluo/val")
