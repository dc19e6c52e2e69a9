"""A bundle is proved when it is made and again, without Keras, when it is published."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_trained, of_instances
from PIL import Image

from keras_unet.errors import ExportError
from keras_unet.models import Decoding, TrainedModel, build_unet
from keras_unet.serving import bundle as golden
from keras_unet.serving import publish_bundle, versions, write_bundle
from keras_unet.serving.bundle import fingerprint
from keras_unet.serving.card import read_served_card
from keras_unet.serving.protocol.objects import decoding_tensors


def small():
    return TrainedModel(build_unet((None, None, 1), 2, filters=2, depth=1), make_trained().card)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "bundle"
    write_bundle(small(), folder, name="cells", precision="float16")
    return folder


def test_a_bundle_is_published_once(made, tmp_path):
    folder = tmp_path / "cells"
    version = publish_bundle(made, folder, files={"lineage.json": "{}"})
    assert version == folder / "1"
    assert read_served_card(version).precision == "float16"
    assert (version / "assets.extra" / "lineage.json").read_text() == "{}"
    assert fingerprint(version) == fingerprint(made)  # notes on the publication do not count
    assert publish_bundle(made, folder, files={"lineage.json": '{"again": 1}'}) == version
    assert versions(folder) == [1]
    assert json.loads((version / "assets.extra" / "lineage.json").read_text()) == {}


def test_an_older_version_of_the_same_model_does_not_count(made, tmp_path):
    """Only the newest one: what is served otherwise is another model."""
    folder = tmp_path / "cells"
    publish_bundle(made, folder)
    shutil.copytree(folder / "1", folder / "2")
    path = folder / "2" / "assets" / "model_card.json"
    path.write_text(path.read_text().replace("float16", "float32"))
    assert publish_bundle(made, folder, keep=2) == folder / "3"
    assert versions(folder) == [2, 3]


def test_it_must_be_made_for_that_name(made, tmp_path):
    with pytest.raises(ExportError, match="made for 'cells'; expected 'nuclei'"):
        publish_bundle(made, tmp_path / "nuclei")


def test_other_weights_are_found_without_keras(made, tmp_path):
    """A SavedModel that loads and answers, but not as the Keras model did."""
    bundle = tmp_path / "bundle"
    shutil.copytree(made, bundle)
    other = small()
    other.network.set_weights([w + 0.3 for w in other.network.get_weights()])
    write_bundle(other, tmp_path / "other", name="cells", precision="float16")
    shutil.rmtree(bundle / "variables")
    shutil.copytree(tmp_path / "other" / "variables", bundle / "variables")
    with pytest.raises(ExportError, match="differs from the Keras model by"):
        publish_bundle(bundle, tmp_path / "cells")
    assert versions(tmp_path / "cells") == []


def test_a_damaged_bundle_is_refused(made, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(made, bundle)
    (bundle / golden.EXPECTED).write_bytes(b"torn")
    with pytest.raises(ExportError, match="golden.npz: cannot be read"):
        publish_bundle(bundle, tmp_path / "cells")
    (bundle / golden.EXPECTED).unlink()
    with pytest.raises(ExportError, match="golden.npz: cannot be read"):
        publish_bundle(bundle, tmp_path / "cells")
    (bundle / "saved_model.pb").unlink()
    with pytest.raises(ExportError, match="no saved_model.pb"):
        publish_bundle(bundle, tmp_path / "cells")
    assert not any((tmp_path / "cells").glob("[0-9]*"))


def test_how_objects_are_found_is_proved_too(tmp_path):
    """The graph's answer with the card, and that its 16 bits are on their side of the threshold."""
    trained = of_instances(small(), threshold=0.45, split="distance", seed_distance=7)
    bundle = tmp_path / "bundle"
    write_bundle(trained, bundle, name="nuclei")
    asked = golden.warmup_signatures(bundle)
    assert asked[-1] == "decoding" and "decoding" in tf.saved_model.load(bundle).signatures
    path = bundle / "assets" / "model_card.json"
    card = path.read_text()
    for said, other, wrong in (
        ('"seed_distance": 7', '"seed_distance": 8', "decoding"),
        ('"threshold": 0.45', '"threshold": 0.5', "segment_bytes_probabilities|decoding"),
    ):
        assert said in card
        path.write_text(card.replace(said, other))
        with pytest.raises(ExportError, match=f"the SavedModel's ({wrong}) differs .* by 1"):
            golden.check_bundle(bundle)


def test_a_bundle_of_an_older_version_is_proved_by_what_it_has(tmp_path):
    """Models of instance labels that were published before said nothing of objects."""
    bundle = tmp_path / "bundle"
    write_bundle(small(), bundle, name="nuclei")
    path = bundle / "assets" / "model_card.json"
    path.write_text(path.read_text().replace('"kind": "semantic"', '"kind": "instances"'))
    card = read_served_card(bundle)
    assert card.model.labels.kind == "instances" and card.model.decoding is not None
    golden.check_bundle(bundle)


def test_shares_on_the_wrong_side_of_the_threshold_are_found():
    """Though they differ by hardly more than their rounding."""
    decoding, values = Decoding(threshold=0.5), np.array([0, 255], np.uint8)
    wanted = np.array([[[0.5 + 1.2e-5, 0.5 - 1.2e-5]]], np.float32)
    said = {name: np.array([one]) for name, one in decoding_tensors(decoding).items()}
    names = ["segment_bytes_probabilities", "decoding"]
    for share, largest in ((32767, 1e-5), (32768, 1.0)):
        files = []
        for one in (32768, share):
            file = io.BytesIO()
            Image.fromarray(np.array([[one]], np.uint16)).save(file, "PNG")
            files.append(file.getvalue())
        given = [{"probability_bytes": np.array([files], object)}, said]
        found = golden.differences(names, [[wanted], []], values, given, decoding)
        assert found["decoding"] == 0.0
        assert (found[names[0]] == 1.0) == (largest == 1.0) and found[names[0]] <= largest


def test_what_is_expected_is_what_the_model_with_the_stored_weights_gives(made):
    served = tf.saved_model.load(made).signatures["serving_default"]
    first = golden.golden_requests(small())[0]
    given = served(images=tf.constant(first.value))["probabilities"].numpy()[0]
    assert np.abs(golden.read_expected(made)[0][0] - given).max() <= golden.GOLDEN_TOLERANCE


def test_answers_that_are_not_numbers_do_not_count_as_equal():
    images = [np.full((2, 2, 2), 0.5, np.float32)]
    answer = [{"probabilities": np.full((1, 2, 2, 2), np.nan, np.float32)}]
    values = np.array([0, 255], np.uint8)
    for wanted in (images, [np.full_like(images[0], np.nan)]):
        found = golden.differences(["serving_default"], [wanted], values, answer)
        assert found == {"serving_default": np.inf}
