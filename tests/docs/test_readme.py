"""README's way of a Keras script, from a network to a server's answer, each in a process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import keras_unet

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## In a Keras script")[2].partition("\n## ")[0]
SCRIPTS = dict(
    re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
)
COMMANDS = re.findall(r"^(keras-unet [^#\n]*)", SECTION, re.MULTILINE)
MAIN = "from keras_unet.cli import main; main()"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_the_scripts_run_as_they_stand(tmp_path):
    def run(name, **replaced):
        text = SCRIPTS[name]
        for old, new in replaced.values():
            assert old in text
            text = text.replace(old, new)
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        return done.stdout

    assert list(SCRIPTS) == ["train.py", "use.py", "call.py", "sizes.py"]
    run("train.py")
    printed = run("use.py")
    assert re.search(r"'cell': 0\.\d+.* saved_models/cells/1$", printed.strip())
    assert (tmp_path / "saved_models/cells/1/saved_model.pb").is_file()
    assert (tmp_path / "scores/report.html").is_file()

    (command,) = COMMANDS
    port = free_port()
    arguments = [*command.split()[1:], "--grpc-port", str(port), "--rest-port", "-1"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=tmp_path,
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        printed = run("call.py", port=(":8500", f":{port}"))
    finally:
        server.terminate()
        server.wait(60)
        log.close()
    model = keras_unet.load_model(tmp_path / "cells.keras")
    image = keras_unet.data.read_image(tmp_path / "cells/val/images/cells_000.png")
    mask = keras_unet.predict(model, image).argmax(-1) * 255
    shape, mean = printed.strip().rsplit(" ", 1)
    assert shape == "(200, 200)"
    np.testing.assert_allclose(float(mean), mask.mean(), atol=1e-2)


def test_the_numbers_are_true():
    names = {}
    exec(SCRIPTS["sizes.py"], names)  # the project's own page
    for call, said in re.findall(r"^keras_unet\.geometry\.(.*\))  # (\d+)", SECTION, re.MULTILINE):
        assert eval(f"keras_unet.geometry.{call}", names) == int(said)
