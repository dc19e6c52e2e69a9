"""`describe` and `keras-unet info`: what is in a version, without TensorFlow; damage is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
from conftest import make_trained, of_instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import ExportError
from keras_unet.models import in_float32
from keras_unet.serving import bundle, write_saved_model
from keras_unet.serving.card import CardFields, describe, served_card, write_card


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / "3"
    trained = make_trained("range", channels=3)
    trained = trained._replace(network=in_float32(trained.network))
    write_saved_model(trained, folder)
    bundle.write_warmup(bundle.golden_requests(trained), "cells", folder)
    fields = CardFields(licence="CC0-1.0", data_licence="private", pixel_size=0.5)
    named = {"values": (0, 255), "precision": "float32", "tile": 828, "max_pixels": 100}
    write_card(served_card("cells", trained.card, fields, **named), folder)
    return folder


def test_signatures_are_those_that_tensorflow_loads(version):
    found = {signature.name: signature for signature in describe(version).signatures}
    loaded = tf.saved_model.load(version).signatures
    assert set(found) == set(loaded)
    for name, signature in loaded.items():
        for forms, specs in (
            (found[name].inputs, signature.structured_input_signature[1]),
            (found[name].outputs, signature.structured_outputs),
        ):
            assert {f.name: (f.dtype, f.shape) for f in forms} == {
                key: (spec.dtype.name, tuple(spec.shape)) for key, spec in specs.items()
            }


def test_info_prints_it_without_tensorflow(version):
    code = (
        "import sys; from keras_unet.cli.app import app; app(sys.argv[1:], standalone_mode=False);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "info", str(version)],
        capture_output=True,
        text=True,
        check=True,
    )
    for text in (
        "serving_default(images: float32 [?, ?, ?, 3])",
        "-> mask_bytes: string [?], probability_bytes: string [?, 2]; 1 warm-up request",
        "2 warm-up requests",
        "cell (mask 255, #e69f00)",
        "CC0-1.0; training data private",
        "method range, scale 255.0",
        "pixel size 0.5 µm; at most 100 pixels",
        "val_mean_dice 0.5",
    ):
        assert text in done.stdout


def test_info_says_who_finds_objects(version, tmp_path):
    """In a line: how, and where, of a model of instance labels; of an older version that nobody."""
    folder = tmp_path / "3"
    shutil.copytree(version, folder)
    path = folder / "assets" / "model_card.json"
    assert "objects" not in CliRunner().invoke(app, ["info", str(folder)]).stdout
    path.write_text(path.read_text().replace('"kind": "semantic"', '"kind": "instances"'))
    shown = CliRunner().invoke(app, ["info", str(folder)]).stdout
    assert "objects       threshold 0.5" in shown
    assert "objects from  no server: an older keras_unet published it" in shown
    trained = of_instances(make_trained("range", channels=3), threshold=0.4)
    trained = trained._replace(network=in_float32(trained.network))
    write_saved_model(trained, tmp_path / "4")
    shutil.copytree(folder / "assets", tmp_path / "4" / "assets", dirs_exist_ok=True)
    shown = CliRunner().invoke(app, ["info", str(tmp_path / "4")]).stdout
    assert "objects from  keras-unet serve (segment_bytes_objects) and keras_unet.serving" in shown
    assert "decoding(request: int32 [?])" in shown and "split: string [?]" in shown


def test_info_as_json(version):
    result = CliRunner().invoke(app, ["info", str(version), "--json"])
    found = json.loads(result.stdout)
    assert found["warmup"]["serving_default"] == 2
    assert found["card"]["model"]["normalization"]["scale"] == 255.0
    assert found["bytes"] == sum(p.stat().st_size for p in version.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("saved_model.pb", b"\xff" * 40, "damaged, or no SavedModel"),
        ("saved_model.pb", b"", 'no graph with the tag "serve"'),
        ("assets/model_card.json", b"{}", "is no model card"),
        ("assets/model_card.json", b"\xff\xfe{", "is no model card"),
        ("assets.extra/tf_serving_warmup_requests", b"abc", "truncated after 0 records"),
        ("assets.extra/tf_serving_warmup_requests", b"\xff" * 12, "truncated after 0 records"),
        ("assets.extra/tf_serving_warmup_requests", b"\3" + b"\0" * 11 + b"\xff" * 7, "damaged"),
    ],
)
def test_a_damaged_version_is_named(version, tmp_path, file, data, message):
    folder = tmp_path / "3"
    shutil.copytree(version, folder)
    (folder / file).write_bytes(data)
    with pytest.raises(ExportError, match=message):
        describe(folder)


def test_what_is_no_version_is_named(version, tmp_path):
    with pytest.raises(ExportError, match="no such folder"):
        describe(tmp_path / "absent")
    for number in ("9", "10"):
        (tmp_path / "many" / number).mkdir(parents=True)
    with pytest.raises(ExportError, match="did you mean .*many/10"):
        describe(tmp_path / "many")
    for number in ("00011", "20261130052033123456789"):
        (tmp_path / "many" / number).mkdir()
    with pytest.raises(ExportError, match="did you mean .*many/00011"):
        describe(tmp_path / "many")
    with pytest.raises(ExportError, match=f"did you mean {version}"):
        describe(version.parent)
    shutil.copytree(version, tmp_path / "3")
    shutil.rmtree(tmp_path / "3" / "variables")
    with pytest.raises(ExportError, match="the weights are missing"):
        describe(tmp_path / "3")


def test_a_model_of_others_has_no_card(version, tmp_path):
    shutil.copytree(version, tmp_path / "3")
    shutil.rmtree(tmp_path / "3" / "assets")
    shutil.rmtree(tmp_path / "3" / "assets.extra")
    assert describe(tmp_path / "3").card is None
    result = CliRunner().invoke(app, ["info", str(tmp_path / "3")])
    assert "No model card" in result.stdout
    assert "0 warm-up requests" in result.stdout


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.floats(0, 1), replaced=st.binary(max_size=12), cut=st.booleans())
def test_no_damage_escapes_as_another_error(version, tmp_path, at, replaced, cut):
    folder = tmp_path / "fuzzed"
    if not folder.exists():
        shutil.copytree(version, folder)
    for name in ("saved_model.pb", "assets.extra/tf_serving_warmup_requests"):
        data = (version / name).read_bytes()
        place = int(at * len(data))
        rest = b"" if cut else data[place + len(replaced) :]
        (folder / name).write_bytes(data[:place] + replaced + rest)
        try:
            describe(folder)
        except ExportError as error:
            assert name in str(error)
        (folder / name).write_bytes(data)
