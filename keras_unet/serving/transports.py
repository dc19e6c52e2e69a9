"""Transports of the client: TensorFlow Serving's gRPC and REST; one try of one request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit
from urllib.request import proxy_bypass

import numpy as np

from keras_unet.errors import ConfigError, ServingError
from keras_unet.serving.protocol import connection
from keras_unet.serving.protocol.codes import CODE_OF_STATUS, Code
from keras_unet.serving.protocol.tensors import from_json, to_json

GRPC_PORT = 8500  # where gRPC is, unless a URL says otherwise
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's order
_CONTENT = ("keras-unet-tensor-content", "1")  # other servers ignore it
_LARGEST = 1 << 40  # bytes of an answer's tensor: what the client's memory bears
_PASSING = (429, 502, 503)  # HTTP statuses
Spec = tuple[str, "int | None", "str | None"]  # a model's name, version, label


class Passing(ServingError):
    """The server is busy or away: the same request may succeed later."""


class Transport(Protocol):
    """What `Client` needs of a protocol."""

    def predict(
        self, model: Spec, signature: str, inputs: Mapping[str, np.ndarray], seconds: float
    ) -> dict[str, np.ndarray]:
        """{output: array} of one request."""

    def status(self, name: str, seconds: float) -> list[dict[str, Any]]:
        """One {"version", "state", "error"} a version."""

    def close(self) -> None:
        """Ends the connection."""


def connect(
    url: str, *, token: str | None, authority: Path | None, pair: tuple[Path, Path] | None
) -> Transport:
    """The transport of a URL: grpc://, grpcs://, http:// or https://.

    Args:
        authority: PEM of who signed the server's certificate; None: the system's.
        pair: the client's certificate and key, PEM.

    Raises:
        ConfigError: another scheme, no host, a port that is none, or TLS files that cannot be used.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # brackets that do not close, a port above 65535
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("grpc", "grpcs", "http", "https") or not host:
        raise ConfigError(
            f"server {url!r}: expected grpc://, grpcs://, http:// or https://HOST:PORT"
        )
    trusted = None if authority is None else connection.authority(authority)
    own = None if pair is None else connection.identity(*pair)
    if parts.scheme in ("http", "https"):
        return Rest(url.rstrip("/"), token, authority, pair)
    return Grpc(host, port or GRPC_PORT, parts.scheme == "grpcs", token, trusted, own)


class Grpc:
    """PredictionService and ModelService."""

    def __init__(
        self,
        host: str,
        port: int,
        secure: bool,
        token: str | None,
        authority: bytes | None,
        own: tuple[bytes, bytes] | None,
    ) -> None:
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        address = connection.join_address(host, port)
        direct = connection.is_loopback(host)  # no proxy leads there
        proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
        through = proxy is not None and not direct and not proxy_bypass(host)
        self._hint = f" (asked through the proxy that {proxy} names)" if through else ""
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if direct:
            options.append(("grpc.enable_http_proxy", 0))
        if secure:
            certificate, key = own or (None, None)
            credentials = grpc.ssl_channel_credentials(authority, key, certificate)
            self._channel = grpc.secure_channel(address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._address = address
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._metadata = [_CONTENT] + ([("authorization", f"Bearer {token}")] if token else [])

    def predict(
        self, model: Spec, signature: str, inputs: Mapping[str, np.ndarray], seconds: float
    ) -> dict[str, np.ndarray]:
        """See `Transport`."""
        from tensorflow_serving.apis import predict_pb2

        from keras_unet.serving.protocol.tensors import to_array, to_proto

        request = predict_pb2.PredictRequest()
        request.model_spec.name, version, label = model[0], model[1], model[2]
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array, content=True))
        response = self._call(self._prediction.Predict, request, seconds)
        return {
            name: to_array(name, proto, proto.dtype, _LARGEST)
            for name, proto in response.outputs.items()
        }

    def status(self, name: str, seconds: float) -> list[dict[str, Any]]:
        """See `Transport`."""
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        response = self._call(self._models.GetModelStatus, request, seconds)
        kind = get_model_status_pb2.ModelVersionStatus.State
        return [
            {
                "version": one.version,
                "state": kind.Name(one.state),
                "error": one.status.error_message,
            }
            for one in response.model_version_status
        ]

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()

    def _call(self, method: Any, request: Any, seconds: float) -> Any:
        import grpc

        try:
            return method(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            # a message over the limit has the same code as a full queue, and never fits
            if code == "UNAVAILABLE":
                details += self._hint
            full = "later" in details or "Concurrent RPC limit" in details
            busy = code == "UNAVAILABLE" or (code == "RESOURCE_EXHAUSTED" and full)
            kind = Passing if busy else ServingError
            raise kind(f"{self._address}: {code}: {details}", code) from None


class Rest:
    """/v1/models/…"""

    def __init__(
        self,
        url: str,
        token: str | None,
        authority: Path | None,
        pair: tuple[Path, Path] | None,
    ) -> None:
        import requests

        self._url = url
        self._outputs: dict[tuple[str, str], Any] = {}  # of signatures that were asked before
        self._session = requests.Session()
        host = urlsplit(url).hostname or ""
        self._proxies = {"no_proxy": host} if connection.is_loopback(host) else {}
        # of each request: the session's own would give way to REQUESTS_CA_BUNDLE
        self._verify = None if authority is None else str(authority)
        if pair is not None:
            self._session.cert = str(pair[0]), str(pair[1])
        if token:  # as `auth`: a header would give way to what ~/.netrc says of the host
            self._session.auth = _bearer(token)

    def predict(
        self, model: Spec, signature: str, inputs: Mapping[str, np.ndarray], seconds: float
    ) -> dict[str, np.ndarray]:
        """See `Transport`."""
        name, version, label = model
        place = f"/v1/models/{quote(name, safe='')}"
        if version is not None:
            place += f"/versions/{version}"
        elif label is not None:
            place += f"/labels/{quote(label, safe='')}"
        document = {
            "signature_name": signature,
            "inputs": {key: to_json(array) for key, array in inputs.items()},
        }
        until = time.monotonic() + seconds
        outputs = self._call("POST", f"{place}:predict", seconds, "outputs", document)
        for known in (True, False):
            infos = self._outputs.get((place, signature)) if known else None
            if infos is None:
                left = max(0.001, until - time.monotonic())
                described = self._call("GET", f"{place}/metadata", left, "metadata")
                infos = self._outputs[place, signature] = _infos(described, signature)
            try:
                return _arrays(outputs, infos)
            except (KeyError, TypeError, ValueError) as error:
                if not known:  # and not that a version of other outputs has taken over
                    raise ServingError(
                        f"{self._url}{place}: the answer is not what signature {signature!r} "
                        f"gives by its metadata ({error!r})"
                    ) from None
        raise AssertionError("either returns or raises")  # pragma: no cover

    def status(self, name: str, seconds: float) -> list[dict[str, Any]]:
        """See `Transport`."""
        place = f"/v1/models/{quote(name, safe='')}"
        found = self._call("GET", place, seconds, "model_version_status")
        return [
            {
                "version": int(one["version"]),
                "state": one["state"],
                "error": one["status"]["error_message"],
            }
            for one in found
        ]

    def close(self) -> None:
        """See `Transport`."""
        self._session.close()

    def _call(self, method: str, path: str, seconds: float, key: str, document: Any = None) -> Any:
        """What the answer holds under `key`."""
        import requests
        from urllib3 import Timeout

        url = self._url + path
        options: Any = {"proxies": dict(self._proxies), "verify": self._verify}
        options["timeout"] = Timeout(total=seconds)  # to connect, and until it answers
        if document is not None:  # requests itself would refuse NaN, without a reason
            options["data"] = json.dumps(document).encode()
            options["headers"] = {"Content-Type": "application/json"}
        try:
            response = self._session.request(method, url, **options)
        except requests.Timeout:
            raise ServingError(
                f"{url}: no answer in {seconds:.3g} s", "DEADLINE_EXCEEDED"
            ) from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            hint = "" if urlsplit(url).port else "; no port in the URL: servers of models have 8501"
            raise Passing(f"{url}: UNAVAILABLE: {error}{hint}", "UNAVAILABLE") from None
        except requests.RequestException as error:
            raise ServingError(f"{url}: {error}") from None
        return _value(url, response, key)


def _value(url: str, response: Any, key: str) -> Any:
    status = response.status_code
    try:
        document = response.json()
    except ValueError:
        document = {"error": response.text[:200]}
    if response.ok and isinstance(document, dict) and key in document:
        return document[key]
    code = CODE_OF_STATUS.get(status, Code.UNKNOWN).name
    message = document.get("error", document) if isinstance(document, dict) else document
    if response.ok:
        message = f"expected TensorFlow Serving's {key!r}, found {str(message)[:200]}"
    kind = Passing if status in _PASSING else ServingError
    raise kind(f"{url}: {code}: {message}", code)


def _infos(described: Any, signature: str) -> dict[str, tuple[Any, list[int] | None]]:
    """{output: (NumPy type, shape)} of a signature, from a model's metadata."""
    from keras_unet.serving.protocol.tensors import numpy_type_of

    try:
        outputs = described["signature_def"]["signature_def"][signature]["outputs"]
        return {
            name: (
                numpy_type_of(info["dtype"]),
                None
                if info["tensor_shape"].get("unknown_rank")
                else [int(dim["size"]) for dim in info["tensor_shape"].get("dim", [])],
            )
            for name, info in outputs.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServingError(
            f"metadata of signature {signature!r} is not understood: {error!r}"
        ) from None


def _arrays(outputs: Any, infos: dict[str, tuple[Any, list[int] | None]]) -> dict[str, np.ndarray]:
    if len(infos) == 1:  # a lone output has no name in JSON
        outputs = dict.fromkeys(infos, outputs)
    if set(outputs) != set(infos):
        raise ValueError(f"outputs {sorted(outputs)}; expected {sorted(infos)}")
    return {name: from_json(value, *infos[name]) for name, value in outputs.items()}


def _bearer(token: str) -> Callable[[Any], Any]:
    def add(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return add
