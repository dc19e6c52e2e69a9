"""Who may ask: a token, TLS, this machine alone."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest
import requests
import toy_models
from bounded_server import (
    LIMITS,
    post,
    publish,
    refusal,
    request_of,
)
from pydantic import ValidationError
from tensorflow_serving.apis import prediction_service_pb2_grpc

from keras_unet.errors import ConfigError, ServingError
from keras_unet.serving import Client
from keras_unet.serving.server import EmbeddedServer, ServerSettings

TOKEN = "a token of this test"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("saved_models"))


@pytest.fixture(scope="module")
def server(root):
    with toy_models.serving(root, limits=LIMITS) as server:
        yield server


def test_a_token_is_asked_for(root):
    with toy_models.serving(root, token=TOKEN) as server:
        url = f"http://{server.rest_address}"
        for path in ("/v1/models/m", "/models", "/metrics", "/v1/models/m/metadata"):
            for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}):
                response = requests.get(url + path, headers=wrong, timeout=20)
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
            for scheme in ("Bearer", "bearer", "BEARER "):
                right = {"Authorization": f"{scheme} {TOKEN}"}
                assert requests.get(url + path, headers=right, timeout=20).status_code == 200
        assert post(server, {"instances": [[[[0.5]]]]}).status_code == 401
        for path in ("/", "/healthz"):  # nothing secret, and probes have no token
            assert requests.get(url + path, timeout=20).status_code == 200
        request = request_of(np.zeros((1, 1, 1, 1), "f"))
        assert refusal(server, request) == "UNAUTHENTICATED"
        with grpc.insecure_channel(server.grpc_address) as channel:
            method = "/tensorflow.serving.PredictionService/Predict"
            sending, stop = channel.stream_unary(method), threading.Event()
            with pytest.raises(grpc.RpcError) as caught:  # no message is waited for
                sending(iter(stop.wait, True), timeout=20)
            stop.set()
        assert caught.value.code().name == "UNAUTHENTICATED"
        with grpc.insecure_channel(server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for scheme in ("Bearer", "bearer"):
                metadata = [("authorization", f"{scheme} {TOKEN}")]
                assert stub.Predict(request, timeout=20, metadata=metadata)


def test_tls(root, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for place, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(tmp_path / "cert.pem"), append=place > 0)
    files = {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with toy_models.serving(root, **files) as server:
        trusted = {"verify": str(tmp_path / "ca.pem"), "timeout": 20}
        assert requests.get(f"https://{server.rest_address}/v1/models/m", **trusted).ok
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"https://{server.rest_address}/v1/models/m", timeout=20)
        credentials = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        with grpc.secure_channel(server.grpc_address, credentials) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert stub.Predict(request_of(np.zeros((1, 1, 1, 1), "f")), timeout=20)
        assert refusal(server, request_of(np.zeros((1, 1, 1, 1), "f")), seconds=3) in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
        )


def test_clients_may_be_asked_for_a_certificate(root, tmp_path, monkeypatch):
    trustme = pytest.importorskip("trustme")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "theirs.pem"))  # gives way to ours
    ours, theirs = trustme.CA(), trustme.CA()
    for name, authority in (("server", ours), ("client", theirs), ("stranger", ours)):
        issued = authority.issue_cert("localhost", "127.0.0.1", name)
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    theirs.cert_pem.write_to_path(str(tmp_path / "theirs.pem"))

    def own(name):
        return {
            "client_certificate": tmp_path / f"{name}.pem",
            "client_key": tmp_path / f"{name}.key",
        }

    settings = {
        "tls_certificate": tmp_path / "server.pem",
        "tls_key": tmp_path / "server.key",
        "tls_client_authority": tmp_path / "theirs.pem",
    }
    with toy_models.serving(root, **settings) as server:
        for url in (f"grpcs://{server.grpc_address}", f"https://{server.rest_address}"):
            trusted = {"certificate": tmp_path / "ours.pem", "seconds": 5, "retries": 0}
            with Client(url, **trusted, **own("client")) as client:
                assert client.predict("m", np.zeros((2, 2))).shape == (2, 2, 2)
            for stranger in ({}, own("stranger")):
                with (
                    Client(url, **trusted, **stranger) as client,
                    pytest.raises(ServingError, match="UNAVAILABLE"),
                ):
                    client.status("m")
    with pytest.raises(ConfigError, match="server.key: no certificate in it"):
        EmbeddedServer(
            ServerSettings(
                folder=root, **{**settings, "tls_client_authority": tmp_path / "server.key"}
            )
        )
    with pytest.raises(ValueError, match="client certificates need TLS"):
        ServerSettings(folder=root, tls_client_authority=tmp_path / "theirs.pem")


@pytest.mark.parametrize("port", ["grpc_port", "rest_port"])
def test_a_bad_key_is_named_before_a_port_is_taken(root, tmp_path, port):
    trustme = pytest.importorskip("trustme")
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    trustme.CA().issue_cert("x.example").private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    files = {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with pytest.raises(ConfigError, match=r"key.pem: belongs to another certificate"):
        EmbeddedServer(ServerSettings(folder=root, **files, **{port: None}))


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8501", True),
        ("LocalHost", True),
        ("app.localhost", True),
        ("127.0.0.1:8501", True),
        ("192.168.1.5", True),  # a forwarded port; an address cannot be made to lead elsewhere
        ("[::1]:8501", True),
        ("gpu-box:8501", True),  # a page has a name with a dot
        ("Unet.Example:80", True),  # told
        ("evil.example", False),
        ("evil.example:8501", False),
        ("evil.example.", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("sub.unet.example", False),
        ("", False),
        ("user@127.0.0.1", False),
    ],
)
def test_a_name_that_is_not_this_machines_is_refused(named, host, known):
    """DNS rebinding: a page whose name leads here would be of one origin with this server."""
    url = f"http://{named.rest_address}"
    for path in ("/", "/models", "/healthz", "/metrics", "/v1/models/m"):
        response = requests.get(url + path, headers={"Host": host}, timeout=20)
        assert response.status_code == (200 if known else 403), path
        assert known or "--allow-host" in response.json()["error"]
    body = '{"instances": [[[[0.5]]]]}'
    response = requests.post(f"{url}/v1/models/m:predict", body, headers={"Host": host}, timeout=20)
    assert response.status_code == (200 if known else 403)


@pytest.fixture(scope="module")
def named(root):
    with toy_models.serving(root, limits=LIMITS, allowed_hosts=("unet.example",)) as server:
        yield server


def test_names_are_asked_for_on_loopback_unless_told_otherwise():
    def hosts(**settings):
        return ServerSettings(folder="x", **settings).hosts

    assert hosts() == hosts(host="::1") == ()
    assert hosts(host="0.0.0.0") is None  # clients of other machines call it by any name
    assert hosts(allowed_hosts=("*",)) is None
    assert hosts(host="0.0.0.0", allowed_hosts=("a.b",)) == ("a.b",)
    assert hosts(host="127.example.org") is None  # anybody's name
    for wrong in ("a.b:8501", "http://a.b", "*.a.b", ""):  # none of a request is ever so
        with pytest.raises(ValidationError, match="a name without scheme and port"):
            hosts(allowed_hosts=(wrong,))


def test_only_this_machine_can_connect_unless_told_otherwise(server):
    assert server.settings.loopback
    assert server.rest_address.startswith("127.0.0.1:")
    assert server.grpc_address.startswith("127.0.0.1:")
