"""The client: both protocols, tiles of a huge image, retries and deadlines."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time

import numpy as np
import pytest
import toy_models
from conftest import make_trained
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import ConfigError, DataError, ServingError
from keras_unet.inference import predict
from keras_unet.models import in_float32
from keras_unet.serving import Client, write_saved_model
from keras_unet.serving.remote import segment_files


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_models")
    toy_models.write(root / "toy" / "1", scale=0.25)
    return root


@pytest.fixture(scope="module")
def server(root):
    with toy_models.serving(root, token="a long token") as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def client(server, request):
    address = server.grpc_address if request.param == "grpc" else server.rest_address
    with Client(f"{request.param}://{address}", token="a long token") as client:
        yield client


IMAGE = np.arange(35, dtype=np.uint8).reshape(5, 7)


def test_an_image_in_probabilities_out(client):
    got = client.predict("toy", IMAGE)
    assert got.shape == (5, 7, 2) and got.dtype == np.float32
    np.testing.assert_allclose(got[..., 1], IMAGE / 4)
    np.testing.assert_allclose(client.predict("toy", IMAGE[..., None], version=1), got)


def test_images_in_masks_out(client):
    masks = client.segment("toy", [IMAGE, toy_models.png(3, 2, 200)])
    np.testing.assert_array_equal(masks[0], 255 - IMAGE)
    assert masks[1].shape == (3, 2) and masks[1].max() == 55


def test_status(client):
    assert client.status("toy") == [{"version": 1, "state": "AVAILABLE", "error": ""}]


def test_refusals_name_the_code(client):
    for call, code in [
        (lambda: client.predict("nope", IMAGE), "NOT_FOUND"),
        (lambda: client.status("nope"), "NOT_FOUND"),
        (lambda: client.predict("toy", IMAGE, version=5), "NOT_FOUND"),
        (lambda: client.predict("toy", IMAGE, label="x"), "INVALID_ARGUMENT"),
        (lambda: client.segment("toy", [b"no image"]), "INVALID_ARGUMENT"),
    ]:
        with pytest.raises(ServingError, match=code) as caught:
            call()
        assert caught.value.code == code


def test_any_signature(client):
    inputs = {"a": np.int32([1, 2]), "b": np.float32([0.5, 1])}
    out = client.run("toy", inputs, "two_inputs")
    np.testing.assert_allclose(out["sum"], [1.5, 3.0])


def test_a_wrong_token_is_refused_and_not_tried_again(server):
    for url in (f"grpc://{server.grpc_address}", f"http://{server.rest_address}"):
        started = time.monotonic()
        with (
            Client(url, token="a wrong one", retries=9) as client,
            pytest.raises(ServingError) as caught,
        ):
            client.predict("toy", IMAGE)
        assert caught.value.code == "UNAUTHENTICATED"
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_huge_image_in_tiles_equals_the_whole(tmp_path, padding):
    trained = make_trained("range", padding)
    trained = trained._replace(network=in_float32(trained.network))
    write_saved_model(trained, tmp_path / "unet" / "1")
    image = np.random.default_rng(0).integers(0, 255, (150, 211, 1), dtype=np.uint8)
    with toy_models.serving(tmp_path) as server, Client(f"grpc://{server.grpc_address}") as client:
        seen = []
        tiled = client.predict(
            "unet", image, tile=112, depth=2, progress=lambda *done: seen.append(done)
        )
        assert seen[-1] == (len(seen), len(seen)) and len(seen) > 4
        np.testing.assert_allclose(tiled, client.predict("unet", image), atol=1e-5)
        np.testing.assert_allclose(tiled, predict(trained, image), atol=1e-5)
        with pytest.raises(ConfigError, match="too small"):
            client.predict("unet", image, tile=20)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_is_away_is_tried_again(root, protocol):
    with toy_models.serving(root) as server:
        address = server.grpc_address if protocol == "grpc" else server.rest_address
    port = int(address.rsplit(":", 1)[1])
    with Client(f"{protocol}://{address}", retries=2, seconds=10) as client:
        with pytest.raises(ServingError) as caught:
            client.predict("toy", IMAGE)
        assert caught.value.code == "UNAVAILABLE"
    with Client(f"{protocol}://{address}", retries=30, seconds=30) as client:
        name = "grpc_port" if protocol == "grpc" else "rest_port"
        again = toy_models.serving(root, **{name: port})
        waiting = threading.Timer(0.3, again.__enter__)
        waiting.start()
        try:
            assert client.predict("toy", IMAGE).shape == (5, 7, 2)
        finally:
            waiting.join()
            again.__exit__(None, None, None)


def test_a_busy_server_is_tried_again_and_a_large_request_is_not(root, server):
    tries = []

    class Busy:
        def predict(self, *arguments):
            from keras_unet.serving.transports import Passing

            tries.append(arguments[-1])
            if len(tries) < 3:
                raise Passing("later", "RESOURCE_EXHAUSTED")
            return {"probabilities": np.zeros((1, 5, 7, 2), np.float32)}

    client = Client("http://127.0.0.1:1", seconds=30)
    client._transport = Busy()
    assert client.predict("toy", IMAGE).shape == (5, 7, 2)
    assert len(tries) == 3 and tries[2] < tries[0] < 30.001  # the deadline is one for all tries
    for url in (f"grpc://{server.grpc_address}", f"http://{server.rest_address}"):
        with Client(url, token="a long token", retries=50, seconds=30) as client:
            started = time.monotonic()
            with pytest.raises(ServingError) as caught:
                client.predict("toy", np.zeros((800, 700), np.float32), tile=800)
            assert caught.value.code == "RESOURCE_EXHAUSTED"
            assert time.monotonic() - started < 10


def test_deadlines(root):
    with toy_models.serving(root) as server:
        version = server.manager.acquire("toy")
        run = version.servable.run
        version.servable.run = lambda *a: (time.sleep(1), run(*a))[1]
        for url in (f"grpc://{server.grpc_address}", f"http://{server.rest_address}"):
            with Client(url, seconds=0.2) as client:
                with pytest.raises(ServingError) as caught:
                    client.predict("toy", IMAGE)
                assert caught.value.code == "DEADLINE_EXCEEDED"
        version.leave()


def test_numbers_that_are_none_are_refused_by_the_server(client):
    image = np.full((5, 7), np.nan, np.float32)
    with pytest.raises(ServingError, match="NaN or infinite") as caught:
        client.predict("toy", image)
    assert caught.value.code == "INVALID_ARGUMENT"


@contextlib.contextmanager
def answering(body, length=None):
    """An HTTP server that is none of TensorFlow's: sends the body, and may promise more."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(length or len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_of_something_else_is_said():
    for body in (b"<html>Welcome!</html>", b"[1, 2]", b'{"outputs": 3}', b"null"):
        with answering(body) as url, pytest.raises(ServingError, match="expected TensorFlow"):
            Client(url).status("toy")


def test_an_answer_that_breaks_off_is_a_server_that_is_away():
    with answering(b'{"model_', length=1000) as url, Client(url, retries=1) as client:
        with pytest.raises(ServingError) as caught:
            client.status("toy")
        assert caught.value.code == "UNAVAILABLE"


def test_a_password_file_does_not_replace_the_token(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Client(f"http://{server.rest_address}", token="a long token") as client:
        assert client.status("toy")[0]["version"] == 1


def test_wrong_arguments():
    for url in ("127.0.0.1:8500", "ftp://x", "grpc://"):
        with pytest.raises(ConfigError, match="expected grpc://"):
            Client(url)
    client = Client("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="not both"):
        client.predict("m", IMAGE, version=1, label="x")
    for wrong in (np.zeros(3), np.zeros((0, 3)), np.array([["a"]])):
        with pytest.raises(DataError, match="expected numbers"):
            client.predict("m", wrong)
    with pytest.raises(DataError, match="a PNG holds"):
        client.segment("m", [np.zeros((2, 2), np.float32)])


def test_files_are_segmented_on_a_server(client, server, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.fromarray(IMAGE).save(tmp_path / "in" / "a.png")
    pages = [Image.fromarray(IMAGE + n) for n in (0, 1)]
    pages[0].save(tmp_path / "in" / "stack.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    said: list[str] = []
    written = segment_files(client, "toy", tmp_path / "in", tmp_path / "out", say=said.append)
    assert len(said) == 1 and "1 other entry left out: notes.txt" in said[0]
    names = ["a_mask.png", "stack_0000_mask.png", "stack_0001_mask.png"]
    assert [file.name for file in written] == names
    np.testing.assert_array_equal(np.asarray(Image.open(written[2])), 254 - IMAGE)
    typed = ["predict", "toy", str(tmp_path / "in"), "--output", str(tmp_path / "typed")]
    (tmp_path / "token").write_text("a long token\n")
    typed += ["--server", f"grpc://{server.grpc_address}", "--token-file", str(tmp_path / "token")]
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "typed").glob("[!.]*")) == names
    assert CliRunner().invoke(app, typed).exit_code == 0  # they are its own
    (tmp_path / "typed" / names[0]).write_bytes(b"corrected by hand")
    done = CliRunner().invoke(app, typed)
    assert isinstance(done.exception, DataError)
    assert f"{names[0]}: was changed since it was written" in str(done.exception)
    assert CliRunner().invoke(app, [*typed, "--overwrite"]).exit_code == 0
    again = (tmp_path / "typed" / names[2]).read_bytes()
    assert again == written[2].read_bytes()
    with pytest.raises(DataError, match="does not exist"):
        segment_files(client, "toy", tmp_path / "out" / "nothing", tmp_path / "out")
    Image.fromarray(IMAGE).save(tmp_path / "in" / "a.tif")
    with pytest.raises(DataError, match="has the same name as a.png"):
        segment_files(client, "toy", tmp_path / "in", tmp_path / "out")
