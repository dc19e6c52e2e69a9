"""An independent client of TensorFlow Serving: ovmsclient, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_models

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "oracles"))
from environments import how_to_make, interpreter

# No import of this project, and no TensorFlow. Its default version is 0, by which OpenVINO's server
# means the newest; to TensorFlow Serving, and here, that is a version like any other.
SCRIPT = """
import json, sys
import numpy as np
from ovmsclient import make_grpc_client, make_http_client
make = {"grpc": make_grpc_client, "http": make_http_client}[sys.argv[1]]
client = make(sys.argv[2])
image = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
found = {
    "status": client.get_model_status(model_name="cells", model_version=1),
    "metadata": client.get_model_metadata(model_name="cells", model_version=1),
    "answer": np.asarray(client.predict({"images": image}, "cells", 1)).tolist(),
}
for name, call in {
    "missing": lambda: client.get_model_status(model_name="nope", model_version=1),
    "wrong": lambda: client.predict({"images": image[0]}, "cells", 1),
}.items():
    try:
        call()
        found[name] = "no error"
    except Exception as error:
        found[name] = type(error).__name__
json.dump(found, sys.stdout, default=str)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    one = toy_models.write(tmp_path_factory.mktemp("made") / "1", scale=0.5)
    toy_models.publish_copy(one, root / "cells" / "1")
    with toy_models.serving(root) as server:
        yield server


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_independent_client_is_served(server, protocol):
    python = interpreter("ovms")
    if python is None:
        pytest.skip(how_to_make("ovms"))
    address = server.grpc_address if protocol == "grpc" else server.rest_address
    done = subprocess.run(
        [python, "-c", SCRIPT, protocol, address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"]["1"]["state"] == "AVAILABLE"
    assert found["status"]["1"]["error_code"] == 0
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    np.testing.assert_allclose(found["answer"], np.concatenate([1 - image / 2, image / 2], -1))
    metadata = found["metadata"]
    if protocol == "grpc":
        image_info = {"dtype": "DT_FLOAT", "shape": [-1, -1, -1, 1]}
        assert metadata["inputs"] == {"images": image_info} and metadata["model_version"] == 1
    else:  # it reads OpenVINO's spelling, and hands on TensorFlow Serving's as it is
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        assert signatures["serving_default"]["inputs"]["images"]["dtype"] == "DT_FLOAT"
    assert found["missing"] == "ModelNotFoundError"
    assert found["wrong"] == "InvalidInputError"
