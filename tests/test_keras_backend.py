"""Another backend than TensorFlow, by the shell or keras.json: said in a sentence, or put right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_unet
from keras_unet.errors import ConfigError

CALLS = {
    "train": lambda: keras_unet.train({"data": {"images": "nowhere"}}),
    "cross_validate": lambda: keras_unet.cross_validate({"data": {"images": "nowhere"}}),
    "predict": lambda: keras_unet.predict("nowhere", np.zeros((8, 8), np.float32)),
    "evaluate": lambda: keras_unet.evaluate("nowhere", "nowhere"),
    "export": lambda: keras_unet.export("nowhere", "there"),
    "convert": lambda: keras_unet.convert("nowhere", [], "there"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_needs_tensorflow_says_so_before_it_reads_anything(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(
        ConfigError, match="needs TensorFlow, but Keras runs on jax .*KERAS_BACKEND"
    ):
        CALLS[name]()
    assert not list(tmp_path.iterdir())


def run(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    environment["KERAS_HOME"] = str(home)
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env=environment, check=False
    )


def test_commands_take_tensorflow_whatever_shell_and_keras_json_say(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}), encoding="utf-8")
    code = """
import sys
from keras_unet.cli import app
sys.argv = ["keras-unet", "info", "nowhere"]
try:
    app.main()
except SystemExit:
    import keras
    print(keras.backend.backend())
"""
    done = run(code, tmp_path, KERAS_BACKEND="jax")
    assert done.stdout.split()[-1:] == ["tensorflow"], done.stderr


def test_a_backend_that_is_not_installed_is_named(tmp_path):
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError('No jax', name='jax')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import keras_unet as k; k.build_unet"
    )
    done = run(code, tmp_path, KERAS_BACKEND="jax")
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigError: jax is not installed, and Keras is to run on it (KERAS_BACKEND" in last
