"""The InfraValidator: a real server, real requests, and no server left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import model_artifacts as made
import tensorflow as tf
from tfx.components.infra_validator import request_builder
from tfx.components.util import model_utils
from tfx.proto import infra_validator_pb2
from tfx.types import channel_utils, standard_artifacts
from tfx.utils import proto_utils

from keras_unet.errors import DataError, ServingError
from keras_unet.serving.server.servable import Servable
from pipelines import infra_validator, models, server_process
from pipelines.infra_validator import ServerInfraValidator, docker_infra_validator
from pipelines.server_process import NoServer

SIGNATURES = {
    "decoding",
    "serving_default",
    "segment_bytes",
    "segment_bytes_probabilities",
    "segment_examples",
}


def validated(folder: Path, model, **parameters):
    """(blessing, its report)."""
    blessing = made.output(standard_artifacts.InfraBlessing, folder)
    inputs = {"model": model, "examples": made.examples()}
    made.run(ServerInfraValidator, inputs, {"blessing": blessing}, **parameters)
    assert not servers(), "a server was left behind"
    return blessing, json.loads((folder / "report.json").read_text())


def servers() -> list[int]:
    """Processes that this one started to serve a model, orphans of such among them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        orphan = parent == 1 and b"sys.argv.pop" in command
        if b"\0serve\0" in command and (parent == os.getpid() or orphan):
            found.append(int(process.name))
    return found


def test_a_model_that_answers_is_blessed(tmp_path, monkeypatch):
    """Compared with the weights as they were exported: those of the training differ by 1e-3.

    And asked directly, where the environment names a proxy for everything.
    """
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    model = made.exported(tmp_path / "model", precision="bfloat16")
    blessing, report = validated(tmp_path / "blessing", model, number=2)
    assert model_utils.is_infra_validated(blessing)
    assert blessing.get_int_custom_property("current_model_id") == 7
    assert blessing.get_string_custom_property("current_model") == model.uri
    assert (tmp_path / "blessing" / "INFRA_BLESSED").is_file()
    assert set(report["requests"]) == SIGNATURES
    assert report["requests"]["segment_examples"] == 3  # two records and the golden one
    assert max(report["differences"].values()) <= 1e-5
    last = (tmp_path / "blessing" / "server.log").read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "stopping"
    assert "no_proxy" not in os.environ


def test_a_model_that_does_not_load_is_not_blessed(tmp_path):
    broken = made.copied(tmp_path / "broken")
    (Path(models.serving_folder(broken.uri)) / "saved_model.pb").write_bytes(b"torn")
    blessing, report = validated(tmp_path / "blessing", broken)
    assert not model_utils.is_infra_validated(blessing)
    assert (tmp_path / "blessing" / "INFRA_NOT_BLESSED").is_file()
    assert "cannot load the model" in report["message"]
    assert blessing.get_string_custom_property("blessing_message") == report["message"]


def test_without_records_no_verdict_is_given(tmp_path):
    """It is not the model's fault."""
    examples = made.artifact(standard_artifacts.Examples, tmp_path, split_names='["eval"]')
    (tmp_path / "Split-eval").mkdir()
    blessing = made.output(standard_artifacts.InfraBlessing, tmp_path / "blessing")
    inputs = {"model": made.trained(), "examples": examples}
    with pytest.raises(DataError, match="no records; expected images to try the server with"):
        made.run(ServerInfraValidator, inputs, {"blessing": blessing})
    assert not blessing.has_custom_property("blessed")


def test_a_model_that_answers_otherwise_is_not_blessed(tmp_path):
    """A SavedModel of other weights: it loads, warms up and answers, but wrongly."""
    wrong = made.copied(tmp_path / "wrong")
    other = made.altered(tmp_path / "other", 8)
    place = Path(models.serving_folder(wrong.uri))
    shutil.rmtree(place)
    shutil.copytree(models.serving_folder(other.uri), place)
    blessing, report = validated(tmp_path / "blessing", wrong, number=1)
    assert not model_utils.is_infra_validated(blessing)
    assert "differs from the Keras model: serving_default by" in report["message"]


def test_a_server_that_does_not_start_fails_the_run(tmp_path, monkeypatch):
    """Not the model's fault: it is not judged, so that TFX's cache does not keep the verdict."""
    begun = time.monotonic()
    with pytest.raises(NoServer, match="did not listen in time"):
        validated(tmp_path / "slow", made.trained(), number=1, seconds=1.0)
    assert time.monotonic() - begun < 200  # bounded: far from the default, five minutes
    monkeypatch.setattr(server_process, "_SERVE", "raise SystemExit('no such extra')")
    with pytest.raises(NoServer, match="ended with 1: no such extra"):
        validated(tmp_path / "absent", made.trained(), number=1)
    assert not servers()


FAKE = """
import json, time
print(json.dumps({"event": "serving", "grpc": "127.0.0.1:1", "rest": "127.0.0.1:2"}), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGKILL, NoServer), (signal.SIGSEGV, ServingError)]
)
def test_a_server_that_ends_meanwhile_is_told_of(tmp_path, monkeypatch, number, kind):
    """Killed, for want of memory perhaps: no verdict. Crashed: one, and it says so."""
    monkeypatch.setattr(server_process, "_SERVE", FAKE)
    ended = f"ended with -{int(number)} .no connection.: "
    with (
        pytest.raises(ServingError, match=ended) as raised,
        server_process.serving(tmp_path, tmp_path / "log", 60) as addresses,
    ):
        assert addresses == ("127.0.0.1:1", "127.0.0.1:2")
        (child,) = servers()
        os.kill(child, number)
        raise ServingError("no connection")
    assert type(raised.value) is kind


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's notice of a parent's death")
def test_a_killed_validator_leaves_no_server(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pipelines.server_process import serving\n"
        "with serving(Path(sys.argv[1]), Path(sys.argv[2]), 300): print('up', flush=True); "
        "time.sleep(600)"
    )
    root, log = tmp_path / "root", tmp_path / "log"
    shutil.copytree(models.serving_folder(made.trained().uri), root / "m" / "1")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(log)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout.readline() == "up\n"
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 30
        while Path(f"/proc/{child}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists()
    finally:
        process.kill()
        process.wait()


def test_tfx_own_validator_gets_requests_that_the_model_answers():
    """Docker apart: what TFX's InfraValidator would send is answered by the SavedModel."""
    channels = [channel_utils.as_channel([one]) for one in (made.trained(), made.examples())]
    component = docker_infra_validator(*channels, tag="2.19.1", number=2)
    spec = proto_utils.json_to_proto(
        component.exec_properties["request_spec"], infra_validator_pb2.RequestSpec()
    )
    serving = component.exec_properties["serving_spec"]
    assert "2.19.1" in serving and "local_docker" in serving
    requests = request_builder.build_requests(
        model_name=infra_validator.NAME,
        model=made.trained(),
        examples=made.examples(),
        request_spec=spec,
    )
    assert [r.model_spec.signature_name for r in requests] == ["segment_examples"] * 2
    servable = Servable(Path(models.serving_folder(made.trained().uri)))
    try:
        for request in requests:
            (tensor,) = request.inputs.values()
            (masks,) = servable.run(
                "segment_examples", [tf.make_ndarray(tensor)], ("mask_bytes",), 60
            )
            assert masks[0].startswith(b"\x89PNG")
    finally:
        servable.close()
