"""`keras-unet serve`: what it starts, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import requests
import toy_models

from keras_unet.errors import ConfigError
from keras_unet.serving.server import EmbeddedServer, ServerSettings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    toy_models.write(root / "m" / "1")
    return root


def command(*arguments, **environment):
    code = "from keras_unet.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "serve", *map(str, arguments)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def events(process):
    """The JSON lines on stderr, as they come."""
    for line in process.stderr:
        if line.startswith("{"):
            yield json.loads(line)


def test_it_serves_until_it_is_told_to_stop(root, tmp_path):
    token = tmp_path / "token"
    token.write_text("a long token\n")
    process = command(
        root, "--grpc-port", 0, "--rest-port", 0, "--token-file", token, "--log-requests"
    )
    try:
        lines = events(process)
        serving = next(e for e in lines if e["event"] == "serving")
        assert serving["models"] == ["m"] and serving["token"] is True
        url = f"http://{serving['rest']}/v1/models/m"
        assert requests.get(url, timeout=20).status_code == 401
        assert process.stdout.readline() == f"Loading the models of {root} ...\n"
        at = f"http://{serving['rest']}/ and grpc://{serving['grpc']}"
        assert process.stdout.readline() == f"Serving m at {at}\n"
        headers = {"Authorization": "Bearer a long token"}
        assert requests.get(url, headers=headers, timeout=20).status_code == 200
        process.send_signal(signal.SIGTERM)
        rest = list(lines)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    asked = [e for e in rest if e["event"] == "request"]
    assert [(e["model"], e["status"]) for e in asked] == [("(unknown)", "401"), ("m", "200")]
    assert rest[-1]["event"] == "stopping"


def said(folder, **settings):
    """What `serve` says to people of a folder: its last line."""
    lines, given = [], {"grpc_port": 0, "rest_port": 0, "load_retries": 0, **settings}
    server = EmbeddedServer(ServerSettings(folder=folder, **given))
    thread = threading.Thread(target=lambda: asyncio.run(server._serve(ready=stop)))

    def stop():
        lines.append(server._ready())
        server._stop.set()

    thread.start()
    thread.join(60)
    return lines[-1]


def test_it_says_where_it_is_and_what_is_missing(root, tmp_path):
    (tmp_path / "models").mkdir()
    line = said(tmp_path / "models")
    assert line.startswith("Serving no model yet at http://127.0.0.1:") and "\n" not in line
    assert f"keras-unet export RUN {tmp_path / 'models'}/NAME" in line
    torn = tmp_path / "models" / "cells" / "3"
    torn.mkdir(parents=True)
    (torn / "saved_model.pb").write_text("torn")
    assert "cells/3 does not load: " in said(tmp_path / "models")
    everywhere = said(root, host="0.0.0.0", rest_port=None)
    assert everywhere.startswith("Serving m at grpc://127.0.0.1:")


def test_a_folder_that_is_no_folder_of_models_is_refused_with_the_cure(root, tmp_path):
    version = root / "m" / "1"
    config = tmp_path / "models.config"
    config.write_text(f'model_config_list {{ config {{ name: "m" base_path: "{version}" }} }}')
    run, bare = tmp_path / "run", tmp_path / "exported"
    for folder, file in ((run, "model.keras"), (bare, "saved_model.pb")):
        folder.mkdir()
        (folder / file).touch()
    for settings, message in [
        ({"folder": version}, f"is a SavedModel.*keras-unet serve {root / 'm'}$"),
        ({"folder": bare}, f"is a SavedModel.*move it to {bare}/1$"),
        ({"folder": run}, f"holds model.keras.*keras-unet export {run} saved_models/NAME"),
        ({"folder": root, "model_config_file": config}, f"models.config: {version}: is a SavedM"),
    ]:
        with pytest.raises(ConfigError, match=message):
            EmbeddedServer(ServerSettings(**settings))
    (run / "1").mkdir()  # a model's folder may hold other things, too
    assert EmbeddedServer(ServerSettings(folder=run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: no such folder"),
        ([".", "--grpc-port", -1, "--rest-port", -1], "nothing to serve"),
        ([".", "--tls-key", "key.pem"], "both a certificate and its key"),
        ([".", "--batching-parameters-file", "nothing"], "not a batching parameters file"),
        ([".", "--model-config-file", "nothing"], "not a model config file"),
        ([".", "--token-file", "nothing"], "No such file"),
        ([".", "--timeout", 0], "seconds: Input should be greater than 0"),
        ([".", "--token-file", "short"], "token: String should have at least 8 characters"),
    ],
)
def test_it_says_what_is_wrong(tmp_path, monkeypatch, arguments, message):
    from typer.testing import CliRunner

    from keras_unet.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "short").write_text("secret\n")
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    assert result.exit_code == 1 and message in str(result.exception)
    assert "secret" not in str(result.exception)


def test_without_the_extra_it_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['prometheus_client'] = None; from keras_unet.cli import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; main()", "serve", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "prometheus_client is missing: pip install 'unet-keras[serve]'" in done.stderr
