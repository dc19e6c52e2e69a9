"""`keras-unet serve`: what it starts, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
import toy_models
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from keras_unet.errors import ConfigError
from keras_unet.serving.server import EmbeddedServer, Limits, ServerSettings, binary

# what stands for the real server: it writes down how it was called, and the files it was given
FAKE = """#!{python}
import json, sys
files = {{}}
for one in sys.argv[1:]:
    name, _, value = one.partition("=")
    if name.endswith("_file"):
        files[name] = open(value).read()
json.dump({{"arguments": sys.argv[1:], "files": files}}, open({record!r}, "w"))
"""


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
        ([".", "--engine", "tensorflow_model_server"], "is not on PATH"),
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


@pytest.fixture
def fake(tmp_path):
    """A program of the real server's name on a PATH of its own; what it records."""
    record = tmp_path / "record.json"
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable, record=str(record)))
    program.chmod(0o755)
    return program.parent, record


def test_the_real_server_is_used_where_it_is_installed(root, tmp_path, fake):
    path, record = fake
    batching = tmp_path / "batching.config"
    batching.write_text("max_batch_size { value: 8 }\nbatch_timeout_micros { value: 500 }\n")
    options = ["--host", "0.0.0.0", "--batching-parameters-file", batching, "--timeout", 5]
    process = command(root, *options, "--threads", 2, PATH=str(path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    found = json.loads(record.read_text())
    assert {
        "--port=8500",
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=5000",
        "--enable_batching=true",
        "--tensorflow_intra_op_parallelism=2",
        "--file_system_poll_wait_seconds=1",
    } <= set(found["arguments"])
    config = text_format.Parse(
        found["files"]["--model_config_file"], model_server_config_pb2.ModelServerConfig()
    )
    (model,) = config.model_config_list.config
    assert model.name == "m" and model.base_path == str((root / "m").resolve())
    assert "max_batch_size { value: 8 }" in found["files"]["--batching_parameters_file"]
    assert "enable: true" in found["files"]["--monitoring_config_file"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"limits": Limits(seconds=5)}, None),
        ({"limits": Limits(rows=5)}, "it has no limits but the time for a request"),
        ({"log_requests": True}, "it does not log requests"),
        ({"host": "127.0.0.1"}, "it listens on every address"),
        ({"token": "a long token"}, "it knows no bearer token"),
        ({"allowed_hosts": ("a.b",)}, "it does not ask whose name"),
        ({"cors": True}, None),
        ({"rest_port": 0}, "it needs ports that are known"),
        ({"tls_certificate": Path("c"), "tls_key": Path("k")}, "its REST port has no TLS"),
    ],
)
def test_what_the_real_server_cannot_do_is_known(settings, reason):
    given = ServerSettings(**{"folder": Path("models"), "host": "0.0.0.0", **settings})
    said = binary.cannot(given)
    assert (said is None) if reason is None else said.startswith(reason)


def test_a_config_file_is_read_again_and_needs_absolute_paths(tmp_path):
    file, line = tmp_path / "models.config", 'config {{ name: "m" base_path: "{}" }}'
    given = ServerSettings(folder=tmp_path, host="0.0.0.0", model_config_file=file, poll_seconds=7)
    file.write_text(f"model_config_list {{ {line.format('/models/m')} {line.format('m')} }}")
    with pytest.raises(ConfigError, match="named twice"):
        binary.cannot(given)
    for path, fits in (("/models/m", True), ("gs://bucket/m", True), ("m", False)):
        file.write_text(f"model_config_list {{ {line.format(path)} }}")
        assert (binary.cannot(given) is None) is fits
    open_to_pages = given.model_copy(update={"cors": True})
    assert "--rest_api_enable_cors_support=true" in binary.command(
        "server", open_to_pages, tmp_path, batching=False
    )
    flag = "--model_config_file_poll_wait_seconds=7"
    assert flag in binary.command("server", given, tmp_path, batching=False)
    (tmp_path / "m" / "1").mkdir(parents=True)
    without = given.model_copy(update={"model_config_file": None})
    assert flag not in binary.command("server", without, tmp_path, batching=False)


def test_tls_is_handed_on(root, tmp_path, fake):
    path, record = fake
    pem = "-----BEGIN X-----\nab+/\n-----END X-----\n"
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text(pem)
    options = ["--tls-certificate", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem"]
    options += ["--tls-client-authority", tmp_path / "cert.pem"]
    process = command(root, "--host", "0.0.0.0", "--rest-port", -1, *options, PATH=str(path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    given = json.loads(record.read_text())["files"]["--ssl_config_file"]
    escaped = pem.replace("\n", "\\n")
    assert f'server_key: "{escaped}"' in given and f'server_cert: "{escaped}"' in given
    assert f'custom_ca: "{escaped}"' in given and "client_verify: true" in given
    for argument in json.loads(record.read_text())["arguments"]:
        if argument.startswith("--ssl_config_file="):
            assert Path(argument.partition("=")[2]).stat().st_mode & 0o077 == 0


def test_what_the_real_server_cannot_do_is_done_here(root, tmp_path, fake):
    path, record = fake
    process = command(root, "--grpc-port", 0, "--rest-port", 0, PATH=str(path))
    try:
        lines = events(process)
        said = next(e for e in lines if e["event"] == "embedded")
        assert "it listens on every address, not only on 127.0.0.1" in said["reason"]
        assert next(e for e in lines if e["event"] == "serving")["models"] == ["m"]
    finally:
        process.kill()
        process.communicate()
    assert not record.exists()
