"""A C++ program loads an export by TF Serving's own call, and gives `predict`'s numbers."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_trained
from PIL import Image
from tensorflow.core.framework.tensor_pb2 import TensorProto

from keras_unet.models import in_float32
from keras_unet.serving import bundle, write_saved_model

SOURCE = Path(__file__).with_name("cpp") / "load.cc"
TILE = 100
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the flags are those of Linux"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Built against the headers and libraries of the `tensorflow` wheel."""
    out = tmp_path_factory.mktemp("cpp") / "load"
    libraries = tf.sysconfig.get_lib()
    # what registers kernels is called by nobody: without --no-as-needed the linker drops it
    link = ["-Wl,--no-as-needed", *tf.sysconfig.get_link_flags(), "-l:libtensorflow_cc.so.2"]
    command = ["g++", "-w", *tf.sysconfig.get_compile_flags(), str(SOURCE), "-o", str(out)]
    done = subprocess.run(
        [*command, *link, f"-Wl,-rpath,{libraries}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    needed = subprocess.run(["ldd", out], capture_output=True, text=True, check=True).stdout
    assert "libtensorflow_cc" in needed and "libpython" not in needed
    return out


@pytest.fixture(scope="module")
def trained():
    trained = make_trained("image", classes=3)
    return trained._replace(network=in_float32(trained.network))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("saved_models") / "1"
    write_saved_model(trained, folder, tile=TILE)
    return folder


def run(program, folder, signature, work, **inputs):
    """{output: array}; RuntimeError with what the program says."""
    work.mkdir(parents=True)
    given = []
    for name, value in inputs.items():
        path = work / f"{name}.given"
        path.write_bytes(tf.make_tensor_proto(value).SerializeToString())
        given.append(f"{name}={path}")
    out = work / "out"
    out.mkdir()
    done = subprocess.run(
        [program, folder, signature, *given, out], capture_output=True, text=True, check=False
    )
    if done.returncode:
        assert done.returncode == 1, done.stderr
        raise RuntimeError(done.stderr)
    return {
        path.stem: tf.make_ndarray(TensorProto.FromString(path.read_bytes()))
        for path in out.glob("*.tensor")
    }


def test_every_signature_gives_what_the_keras_model_gives(program, folder, trained, tmp_path):
    requests = bundle.golden_requests(trained, TILE)
    answers = [
        run(program, folder, one.signature, tmp_path / str(n), **{one.name: one.value})
        for n, one in enumerate(requests)
    ]
    for one, answer in zip(requests, answers, strict=True):
        assert answer, one.signature
    found = bundle.golden_differences(trained, requests, answers)
    assert set(found) == {
        "serving_default",
        "segment_bytes",
        "segment_bytes_probabilities",
        "segment_examples",
    }
    assert max(found.values()) <= bundle.GOLDEN_TOLERANCE, found


def test_what_is_wrong_has_tensorflows_code(program, folder, tmp_path):
    image = np.full((1, 20, 20, 1), np.nan, np.float32)
    with pytest.raises(RuntimeError, match="INVALID_ARGUMENT: .*finite grey values"):
        run(program, folder, "serving_default", tmp_path / "nan", images=image)
    file = io.BytesIO()
    Image.new("L", (30, 20)).save(file, "PNG")
    with pytest.raises(RuntimeError, match="INVALID_ARGUMENT"):
        run(program, folder, "segment_bytes", tmp_path / "torn", image_bytes=[file.getvalue()[:60]])
    with pytest.raises(RuntimeError, match="NOT_FOUND"):
        run(program, tmp_path / "nothing", "serving_default", tmp_path / "none", images=image)
