"""The serving graph gives what `predict` gives, for every signature, and refuses what it must."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_trained
from PIL import Image

from keras_unet.data import LabelRule, read_image
from keras_unet.data.records import encode_example
from keras_unet.errors import ConfigError
from keras_unet.inference import predict, to_classes
from keras_unet.models import build_unet, in_float32
from keras_unet.serving import write_saved_model
from keras_unet.serving.graph import mask_values

TILE = 100  # small enough that the larger images here take several


def served(trained, folder, **options):
    write_saved_model(trained, folder, **options)
    return tf.saved_model.load(folder).signatures


def model(*options, **named):
    trained = make_trained(*options, **named)
    return trained._replace(network=in_float32(trained.network))


def png(pixels):
    return tf.io.encode_png(pixels if pixels.ndim == 3 else pixels[..., None]).numpy()


def read(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def pictures(channels, dtype=np.uint8, sizes=((61, 83), (130, 211), (1, 1))):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, channels)).astype(dtype) for size in sizes]


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    trained = model("image", "valid", 1, classes=3)
    return trained, served(trained, tmp_path_factory.mktemp("grey") / "model", tile=TILE)


@pytest.mark.parametrize(
    ("method", "padding", "channels"),
    [("image", "same", 3), ("dataset", "valid", 3), ("range", "same", 1), ("range", "valid", 2)],
)
def test_float_images_give_what_predict_gives(tmp_path, method, padding, channels):
    trained = model(method, padding, channels, classes=3)
    signatures = served(trained, tmp_path / "model", tile=TILE)
    assert ("segment_bytes" in signatures) == (channels != 2)  # no PNG has two channels
    for image in pictures(channels, sizes=((61, 83), (1, 1), (2, 140), (130, 211))):
        images = np.stack([image, image[::-1]])
        given = signatures["serving_default"](images=tf.constant(images, tf.float32))
        assert given["probabilities"].shape == (*images.shape[:3], 3)
        for one, got in zip(images, given["probabilities"].numpy(), strict=True):
            np.testing.assert_allclose(got, predict(trained, one), atol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_resizing_networks_leave_no_seams(tmp_path, padding, upsampling):
    """Their 2x2 convolutions are padded, so a tile's outermost outputs are not exact."""
    network = build_unet(filters=2, depth=2, padding=padding, upsampling=upsampling)
    trained = model()._replace(network=network)
    signature = served(trained, tmp_path / "model", tile=TILE)["serving_default"]
    for image in pictures(1, sizes=((61, 83), (130, 211))):
        given = signature(images=tf.constant(image[None], tf.float32))["probabilities"][0]
        np.testing.assert_allclose(given, predict(trained, image), atol=1e-5)


def test_encoded_images_of_unequal_sizes(grey):
    trained, signatures = grey
    images = [*pictures(1), *pictures(1, np.uint16, [(40, 30)])]
    data = tf.constant([png(image) for image in images])
    both = signatures["segment_bytes_probabilities"](image_bytes=data)
    masks = signatures["segment_bytes"](image_bytes=data)["mask_bytes"].numpy()
    assert list(masks) == list(both["mask_bytes"].numpy())
    for image, mask, shares in zip(images, masks, both["probability_bytes"].numpy(), strict=True):
        expected = predict(trained, image)
        np.testing.assert_array_equal(read(mask), to_classes(expected))
        got = np.stack([read(share) for share in shares], -1)
        assert got.max() > 255  # 16 bits
        np.testing.assert_allclose(got / 65535, expected, atol=1e-5 + 0.5 / 65535)


def test_examples_hold_encoded_or_raw_images(grey):
    trained, signatures = grey
    image = pictures(1)[1]
    bare = tf.train.Example()  # what a client needs at the least
    bare.features.feature["image/encoded"].bytes_list.value.append(png(image))
    given = [encode_example("a", image), encode_example("b", image.astype(np.float32))]
    given.append(bare.SerializeToString())
    masks = signatures["segment_examples"](examples=tf.constant(given))["mask_bytes"].numpy()
    for mask in masks:
        np.testing.assert_array_equal(read(mask), to_classes(predict(trained, image)))


def test_an_empty_batch_gives_an_empty_answer(grey):
    _, signatures = grey
    none = tf.constant([], tf.string)
    given = signatures["segment_bytes_probabilities"](image_bytes=none)
    assert given["mask_bytes"].shape == (0,)
    assert given["probability_bytes"].shape == (0, 3)


def test_colour_and_jpeg_are_decoded_as_other_programs_do(tmp_path, grey):
    _, signatures = grey
    trained = model("range", "valid", 3)
    of_colour = served(trained, tmp_path / "model")
    file = tmp_path / "a.jpg"
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-9, 10, (50, 60, 3)), 1).clip(-100, 100) + 128
    Image.fromarray(smooth.astype(np.uint8)).save(file, quality=95)
    given = of_colour["segment_bytes_probabilities"](image_bytes=tf.constant([file.read_bytes()]))
    shares = [read(share) for share in given["probability_bytes"].numpy()[0]]
    expected = predict(trained, read_image(file))
    np.testing.assert_allclose(np.stack(shares, -1) / 65535, expected, atol=2e-5)

    inks = Image.fromarray(smooth.astype(np.uint8)).convert("CMYK")
    inks.save(file, quality=95)
    given = of_colour["segment_bytes_probabilities"](image_bytes=tf.constant([file.read_bytes()]))
    shares = [read(share) for share in given["probability_bytes"].numpy()[0]]
    expected = predict(trained, read_image(file))
    np.testing.assert_allclose(np.stack(shares, -1) / 65535, expected, atol=2e-5)
    of_inks = signatures["segment_bytes"](image_bytes=tf.constant([file.read_bytes()]))
    assert read(of_inks["mask_bytes"].numpy()[0]).shape == (50, 60)

    colour, plain = pictures(3)[0], pictures(1)[0]
    masks = {
        name: table["segment_bytes"](image_bytes=tf.constant([png(image)]))["mask_bytes"].numpy()[0]
        for name, table, image in (
            ("colour to grey", signatures, colour),
            ("grey to colour", of_colour, plain),
            ("grey thrice", of_colour, np.repeat(plain, 3, -1)),
        )
    }
    assert read(masks["colour to grey"]).shape == colour.shape[:2]
    assert masks["grey to colour"] == masks["grey thrice"]


@pytest.mark.parametrize(("form", "number"), [("JPEG", 6), ("JPEG", 2), ("PNG", 7)])
def test_photographs_come_upright_as_predict_has_them(tmp_path, grey, form, number):
    trained, signatures = grey
    exif = Image.Exif()
    exif[0x0112] = number
    file = tmp_path / "turned"
    Image.fromarray(pictures(1)[0][..., 0]).save(file, form, exif=exif, quality=95)
    given = signatures["segment_bytes"](image_bytes=tf.constant([file.read_bytes()]))
    expected = to_classes(predict(trained, read_image(file)))
    assert expected.shape == ((83, 61) if number > 4 else (61, 83))
    np.testing.assert_array_equal(read(given["mask_bytes"].numpy()[0]), expected)


def bomb(width, height):
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg():
    file = io.BytesIO()
    Image.fromarray(pictures(1)[0][..., 0]).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a PNG or JPEG file; found"),
        (b"GIF89a" + b"\1" * 40, "expected a PNG or JPEG file; found"),
        (png(pictures(1)[0])[:20], "expected a PNG or JPEG file; found"),
        (png(pictures(1)[0])[:200], "PNG"),
        (png(pictures(1)[0])[:-20], "PNG"),
        (jpeg()[:30], "JPEG"),
        (jpeg()[:-300], "jpeg"),
        (bomb(0, 5), "pixels; expected 1 to 67108864"),
        (bomb(8193, 8192), "pixels; expected 1 to 67108864"),
        (bomb(2**31 - 1, 2**31 - 1), "pixels; expected 1 to 67108864"),
        (
            bomb(2**32 - 1, 2**32 - 1),
            "pixels; expected 1 to 67108864",
        ),  # the product overflows int64
        (bomb(4000, 4000), "PNG"),  # few enough, but the pixels are not there
    ],
)
def test_damaged_and_hostile_files_are_invalid_arguments(grey, data, message):
    _, signatures = grey
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["segment_bytes"](image_bytes=tf.constant([png(pictures(1)[0]), data]))


def test_what_predict_refuses_the_graph_refuses(tmp_path, grey):
    _, signatures = grey
    for bad in (np.full((1, 40, 40, 1), np.nan), np.full((1, 40, 40, 1), np.inf)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="finite grey values"):
            signatures["serving_default"](images=tf.constant(bad, tf.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected 1 to"):
        signatures["serving_default"](images=tf.zeros((1, 0, 40, 1)))
    of_range = served(model("range"), tmp_path / "model", max_pixels=5000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected 1 to 5000"):
        of_range["serving_default"](images=tf.zeros((1, 51, 100, 1)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="up to 256; expected at most 255"):
        of_range["serving_default"](images=tf.fill((1, 40, 40, 1), 256.0))
    deep = png(pictures(1, np.uint16, [(40, 30)])[0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected uint8"):
        of_range["segment_bytes"](image_bytes=tf.constant([deep]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected 1 to 5000"):
        of_range["segment_bytes"](image_bytes=tf.constant([png(pictures(1)[1])]))
    huge = encode_example("a", pictures(1)[1].astype(np.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected 1 to 5000"):
        of_range["segment_examples"](examples=tf.constant([huge]))


def test_a_constant_image_and_unlike_channels_are_normalised_as_in_training(tmp_path):
    trained = model(channels=2)
    signature = served(trained, tmp_path / "model")["serving_default"]
    unlike = np.zeros((40, 40, 2), np.uint16)
    unlike[..., 1] = np.random.default_rng(0).integers(0, 65535, (40, 40))
    unlike[3, 3, 0] = 1  # a channel that is all but empty
    for image in (unlike, np.full((33, 21, 2), 201.7, np.float32)):
        got = signature(images=tf.constant(image[None], tf.float32))["probabilities"].numpy()[0]
        np.testing.assert_allclose(got, predict(trained, image), atol=1e-5)


def test_masks_hold_the_label_values_of_training():
    card = model(classes=3).card
    assert mask_values(card).tolist() == [0, 1, 2]
    for values, expected in (
        ((0, 255), [0, 255]),
        ((0, 1), [0, 255]),
        ((7, 300), [7, 300]),
        ((-1, 4), [0, 1]),  # no PNG holds these: class numbers
    ):
        two = card.model_copy(
            update={"classes": ("a", "b"), "labels": LabelRule(values=values).resolve(values)}
        )
        found = mask_values(two)
        assert found.tolist() == expected
        assert found.dtype == (np.uint16 if max(expected) > 255 else np.uint8)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_in_half_precision(tmp_path, precision):
    trained = model()
    signature = served(trained, tmp_path / "half", precision=precision)["serving_default"]
    write_saved_model(trained, tmp_path / "whole")
    image = pictures(1)[0]
    got = signature(images=tf.constant(image[None], tf.float32))["probabilities"].numpy()[0]
    error = np.abs(got - predict(trained, image)).max()
    assert 1e-6 < error < 0.05
    half, whole = (
        (tmp_path / name / "variables/variables.data-00000-of-00001").stat().st_size
        for name in ("half", "whole")
    )
    assert half < 0.65 * whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"tile": 30}, "tile 30 is too small"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"max_pixels": 2**31}, "max_pixels is"),
    ],
)
def test_options_out_of_range_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_saved_model(model(), tmp_path / "model", **options)


_PEAK = """
import resource, sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["segment_bytes"]
def segment(size):
    image = tf.cast(tf.random.uniform((size, size, 1), 0, 255, tf.int32), tf.uint8)
    served(image_bytes=tf.io.encode_png(image)[None])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(segment(400), segment(3000))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path):
    trained = model("image", "valid", 1)
    write_saved_model(trained, tmp_path / "model", tile=400)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "model")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    small, large = map(float, done.stdout.split())
    # the first level of the network alone takes 9e6 pixels x 4 filters x 4 bytes x 3 = 430 MB
    assert large - small < 200, f"{small:.0f} MB for 400 x 400 pixels, {large:.0f} for 3000 x 3000"
