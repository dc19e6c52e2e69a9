"""Published versions: complete, verified, consecutive; nothing half-written is ever visible."""

from __future__ import annotations

import filecmp
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_trained

from keras_unet.data import Normalization
from keras_unet.errors import ConfigError, ExportError
from keras_unet.models import TrainedModel, in_float32
from keras_unet.serving import (
    CardFields,
    bundle,
    export,
    graph,
    publish_bundle,
    rollback,
    versions,
    write_saved_model,
)
from keras_unet.serving.bundle import fingerprint
from keras_unet.serving.card import read_served_card
from keras_unet.serving.lineage import lineage

SIGNATURES = {
    "serving_default",
    "segment_bytes",
    "segment_bytes_probabilities",
    "segment_examples",
}


def model(*options, **named):
    trained = make_trained(*options, **named)
    return trained._replace(network=in_float32(trained.network))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Two versions, 8 and 9, of which tests take a copy."""
    folder = tmp_path_factory.mktemp("saved_models") / "cells"
    (folder / ".unfinished-123").mkdir(parents=True)  # what a killed publisher left
    (folder / ".removed-3").mkdir()
    (folder / "7").mkdir()
    fields = CardFields(licence="CC-BY-4.0", pixel_size=0.25)
    assert export(model(), folder, fields=fields) == folder / "8"
    assert export(model(), folder, precision="float16", keep=2) == folder / "9"
    return folder


def test_versions_are_consecutive_and_complete(published):
    assert versions(published) == [8, 9]  # 7 was retired
    assert {p.name for p in published.iterdir()} == {"8", "9", ".lock"}
    signatures = tf.saved_model.load(published / "9").signatures
    assert set(signatures) == SIGNATURES | {"tiling"}
    card = read_served_card(published / "8")
    assert card.model == model().card.model_copy(update={"created": card.model.created})
    assert [(c.name, c.value) for c in card.classes] == [("background", 0), ("cell", 255)]
    assert (card.name, card.fields.licence, card.precision) == ("cells", "CC-BY-4.0", "float32")
    assert read_served_card(published / "9").precision == "float16"


def test_warm_up_requests_are_real_ones_for_each_signature(published):
    from tensorflow_serving.apis import prediction_log_pb2

    path = published / "8" / "assets.extra" / "tf_serving_warmup_requests"
    signatures = tf.saved_model.load(published / "8").signatures
    asked = set()
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "cells"
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        assert signatures[request.model_spec.signature_name](**inputs)
        asked.add(request.model_spec.signature_name)
    assert asked == SIGNATURES


def test_going_back_publishes_the_older_version_again(published, tmp_path):
    folder = tmp_path / "cells"
    shutil.copytree(published, folder)
    assert rollback(folder) == folder / "10"
    assert json.loads((folder / "10/assets.extra/rollback.json").read_text()) == {"of": 8}
    same = [str(p.relative_to(folder / "8")) for p in (folder / "8").rglob("*") if p.is_file()]
    assert filecmp.cmpfiles(folder / "8", folder / "10", same, shallow=False)[0] == same
    with pytest.raises(ExportError, match="no version before 8"):  # 10 is 8, and 9 was bad
        rollback(folder)
    assert rollback(folder, to=9) == folder / "11"
    with pytest.raises(ExportError, match="no version 5; found"):
        rollback(folder, to=5)
    with pytest.raises(ExportError, match="no such folder"):
        rollback(tmp_path / "absent")
    assert versions(folder) == [8, 9, 10, 11]
    assert {p.name for p in folder.iterdir()} == {"8", "9", "10", "11", ".lock"}


def test_zero_padded_versions_are_gone_back_to(published, tmp_path):
    folder = tmp_path / "cells"
    for name, number in (("0007", "8"), ("00012", "9")):
        shutil.copytree(published / number, folder / name)
    (folder / "20261130052033123456789").mkdir()
    assert rollback(folder) == folder / "13"
    assert json.loads((folder / "13/assets.extra/rollback.json").read_text()) == {"of": 7}
    same = fingerprint(published / "8")
    assert publish_bundle(published / "8", folder) == folder / "13"
    (folder / "13").rename(folder / "0013")
    assert publish_bundle(published / "8", folder) == folder / "0013"  # it is there already
    assert fingerprint(folder / "0013") == same


def test_what_holds_no_versions_is_named_before_anything_is_made(published, tmp_path):
    for folder, message in (
        (published / "8", "is a version; expected the folder of all of them"),
        (published.parent, "holds no published version"),
        (published / "8" / "variables", "holds no published version"),
    ):
        before = set(folder.iterdir())
        with pytest.raises(ExportError, match=message):
            rollback(folder)
        assert set(folder.iterdir()) == before


NOTES = {
    "empty": b"",
    "half": b'{"of": ',
    "no object": b"[8]",
    "null": b"null",
    "a word": b'{"of": "eight"}',
    "below zero": b'{"of": -1}',
    "a fraction": b'{"of": 1.5}',
    "no number": b'{"of": null}',
    "nothing said": b"{}",
    "UTF-16": '{"of": 8}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "a folder": None,
}


@pytest.mark.parametrize("content", NOTES.values(), ids=NOTES)
@pytest.mark.parametrize("name", ["rollback.json", "lineage.json"])
def test_damaged_notes_give_a_message(published, tmp_path, name, content):
    folder = tmp_path / "cells"
    shutil.copytree(published, folder)
    path = folder / "9" / "assets.extra" / name
    path.mkdir() if content is None else path.write_bytes(content)
    asked = [lambda: lineage(folder / "9")]
    if name == "rollback.json":
        asked += [lambda: rollback(folder), lambda: rollback(folder, to=9)]
    for ask in asked:
        with pytest.raises(ExportError, match=f"{path}: is no (record|lineage) of keras"):
            ask()
    assert versions(folder) == [8, 9]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 torn", b"\xff" * 300, None])
@pytest.mark.parametrize("name", ["golden.npz", "tf_serving_warmup_requests"])
def test_damaged_proofs_give_a_message(published, tmp_path, name, content, monkeypatch):
    folder = tmp_path / "cells"
    shutil.copytree(published, folder)
    path = folder / "8" / "assets.extra" / name
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    monkeypatch.setattr(bundle, "fresh_answers", lambda folder: [])
    with pytest.raises(ExportError, match="damaged|cannot be read|expected as many|0 warm-up"):
        rollback(folder, to=8)
    assert versions(folder) == [8, 9]


def test_a_damaged_version_is_not_gone_back_to(published, tmp_path):
    folder = tmp_path / "cells"
    shutil.copytree(published, folder)
    (folder / "8" / "variables" / "variables.data-00000-of-00001").write_bytes(b"torn")
    with pytest.raises(ExportError, match="does not load"):
        rollback(folder)
    assert versions(folder) == [8, 9]
    assert not list(folder.glob(".unfinished*"))


def test_a_version_that_differs_is_not_published(tmp_path, monkeypatch):
    def other_weights(trained, folder, **options):
        network = in_float32(make_trained().network)
        network.set_weights([w + 0.1 for w in network.get_weights()])
        write_saved_model(trained._replace(network=network), folder, **options)

    monkeypatch.setattr(bundle, "write_saved_model", other_weights)
    with pytest.raises(ExportError, match="serving_default differs from the Keras model by"):
        export(model(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_each_signature_is_compared(tmp_path, monkeypatch):
    """Masks of swapped values, and probabilities that are off by a few 65535ths."""
    trained = model()
    monkeypatch.setattr(graph, "mask_values", lambda card: np.array([255, 0], np.uint8))
    write_saved_model(trained, tmp_path / "swapped")
    monkeypatch.undo()

    def off(probabilities, *threshold):
        shares = tf.cast(tf.round(probabilities * 65500.0), tf.int32)
        return tf.cast(tf.concat([graph._classes(probabilities), shares], -1), tf.uint16)

    monkeypatch.setattr(graph, "_classes_and_shares", off)
    write_saved_model(trained, tmp_path / "off")
    requests = bundle.golden_requests(trained)
    found = {}
    for name in ("swapped", "off"):
        signatures = tf.saved_model.load(tmp_path / name).signatures
        answers = [
            {k: v.numpy() for k, v in signatures[r.signature](**given(r)).items()} for r in requests
        ]
        largest = bundle.golden_differences(trained, requests, answers)
        found[name] = {k for k, v in largest.items() if v > bundle.GOLDEN_TOLERANCE}
    assert found["swapped"] == SIGNATURES - {"serving_default"}
    assert found["off"] == {"segment_bytes_probabilities"}


def given(request):
    return {request.name: tf.constant(request.value)}


def test_a_version_that_does_not_load_is_not_published(tmp_path, monkeypatch):
    def torn(trained, folder, **options):
        write_saved_model(trained, folder, **options)
        (folder / "saved_model.pb").write_bytes(b"torn")

    monkeypatch.setattr(bundle, "write_saved_model", torn)
    with pytest.raises(ExportError, match="does not load"):
        export(model(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_model_of_float_images_is_published(tmp_path):
    trained = model()
    card = trained.card.model_copy(
        update={"normalization": Normalization(method="range", scale=1.0), "image_dtype": "float32"}
    )
    assert export(TrainedModel(trained.network, card), tmp_path).name == "1"


def test_a_damaged_config_is_found_before_anything_is_done(tmp_path):
    (tmp_path / "models.config").write_text("model_config_list { confg {} }")
    for publish in (export, publish_bundle):
        with pytest.raises(ExportError, match=r"models\.config: is no model configuration"):
            publish(tmp_path / "no such model", tmp_path / "unet")
    assert [p.name for p in tmp_path.iterdir()] == ["models.config"]


def test_a_bad_option_publishes_nothing(tmp_path):
    for options in ({"keep": 0}, {"keep": True}, {"precision": "int8"}, {"tile": 8}):
        with pytest.raises(ConfigError):
            export(model(), tmp_path / "unet", **options)
    assert not (tmp_path / "unet").exists() or not versions(tmp_path / "unet")
