"""The processes that `serve.py` measures: servers, the bare model, the clients; and the model."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.normalization import Normalization
from keras_unet.models.keras_file import ModelCard, TrainedModel
from keras_unet.models.unet import Structure, build_unet, structure
from keras_unet.serving.publish import export

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracles"))
from environments import how_to_make, interpreter

HERE = Path(__file__).parent
MODEL = "unet"
SIDE = 256
_SERVE = "from keras_unet.cli import main; main()"


def publish(work: Path, filters: int, padding: Any) -> tuple[Path, Structure]:
    """Exports a random U-Net to WORK/models/unet/1, and writes the requests beside it."""
    network = build_unet(filters=filters, padding=padding)
    card = ModelCard(
        name=MODEL,
        classes=("background", "foreground"),
        normalization=Normalization(method="range", scale=255.0),
        labels=LabelMapping(kind="semantic", values=(0, 1)),
        image_dtype="uint8",
        created="",
        versions={},
        config={},
        data={},
        metrics={},
    )
    version = export(TrainedModel(network, card), work / "models" / MODEL)
    image = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 1)).astype(np.uint8)
    _write_requests(version.parent, image)
    return version, structure(network)


def _write_requests(folder: Path, image: np.ndarray) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    from keras_unet.serving.protocol.tensors import to_proto

    numbers = image.astype(np.float32)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["images"].CopyFrom(to_proto(numbers, content=True))
    (folder / "request.grpc").write_bytes(request.SerializeToString())
    (folder / "request.json").write_text(json.dumps({"instances": image.tolist()}))
    png = base64.b64encode(tf.io.encode_png(image[0]).numpy()).decode()
    asked = {"signature_name": "segment_bytes", "instances": [{"b64": png}]}
    (folder / "request.png").write_text(json.dumps(asked))
    np.save(folder / "image.npy", numbers)


class Server(Protocol):
    """Where requests go: {"grpc", "rest"} -> "host:port", and the folder of the requests."""

    addresses: dict[str, str]
    requests: Path


class _Process:
    """A child process, ended with the block."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(command, text=True, **options)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        self.process.terminate()
        self.process.wait()


class _Worker(_Process):
    """Answers lines with lines."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, question: dict[str, Any]) -> Any:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Bare(_Worker):
    """The SavedModel's signature, called without a server."""

    def __init__(self, version: Path) -> None:
        super().__init__([sys.executable, str(HERE / "serve_peer.py"), "bare", str(version)])
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError("the bare model did not load")

    def calls(self, batch: int, seconds: float) -> list[float]:
        """Seconds of each call, for about as long as asked."""
        _, took = self.ask({"batch": batch, "calls": 2})  # the first compiles
        count = max(3, round(seconds / took))
        return self.ask({"batch": batch, "calls": count})


class Clients(_Worker):
    """The clients' process."""

    def __init__(self) -> None:
        super().__init__([sys.executable, str(HERE / "serve_load.py")])

    def load(
        self, server: Server, kind: str, clients: int, seconds: float, rate: float | None = None
    ) -> dict[str, Any]:
        """What `serve_load.Loaded` holds. kind: "grpc", "json" or "png"."""
        protocol = "grpc" if kind == "grpc" else "rest"
        path = None if kind == "grpc" else f"/v1/models/{MODEL}:predict"
        body = str(server.requests / f"request.{kind}")
        load = {"address": server.addresses[protocol], "path": path, "body": body, "rate": rate}
        return self.ask({**load, "clients": clients, "seconds": seconds})


class Embedded(_Process):
    """`keras-unet serve` in a process of its own."""

    def __init__(self, root: Path, *options: str) -> None:
        command = [sys.executable, "-c", _SERVE, "serve", str(root)]
        command += ["--grpc-port", "0", "--rest-port", "0", *options]
        super().__init__(command, stderr=subprocess.PIPE)
        self.requests = root / MODEL
        self.events: list[dict[str, Any]] = []
        for event in self._lines():
            self.events.append(event)
            if event["event"] == "serving":
                self.addresses = {"grpc": event["grpc"], "rest": event["rest"]}
                threading.Thread(target=self._read, daemon=True).start()
                return
        raise RuntimeError(f"keras-unet serve ended: {self.events}")

    def _lines(self) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line in self.process.stderr if line.startswith("{"))

    def _read(self) -> None:
        for event in self._lines():
            self.events.append(event)

    def memory(self) -> int:
        """Bytes resident."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


class KServe(_Process):
    """KServe's Python server."""

    def __init__(self, version: Path) -> None:
        python = interpreter("kserve")
        if python is None:
            raise OSError(how_to_make("kserve"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [str(python), str(HERE / "serve_peer.py"), "kserve", str(version), str(port)]
        super().__init__(command, stdout=self._log, stderr=subprocess.STDOUT)
        self.addresses = {"rest": f"127.0.0.1:{port}"}
        self.requests = version.parent
        url = f"http://127.0.0.1:{port}/v1/models/{MODEL}"
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(url, timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        self.process.terminate()
        self._log.seek(0)
        raise RuntimeError((self._log.read().strip().splitlines() or ["did not start"])[-1])
