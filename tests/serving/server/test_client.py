"""The client: both protocols, tiles of a huge image, retries and deadlines."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time

import keras
import numpy as np
import pytest
import toy_models
from conftest import make_trained
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import ConfigError, DataError, ServingError
from keras_unet.inference import predict
from keras_unet.models import build_unet, in_float32
from keras_unet.serving import Client, write_saved_model
from keras_unet.serving.client import segment_files
from keras_unet.serving.graph import tiling_needs
from keras_unet.serving.protocol.tensors import from_json


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


def test_strings_and_types_of_any_signature(client, tmp_path):
    """Over REST as over gRPC: names, types and shapes."""
    (tmp_path / "word").write_bytes(b"read\0")
    given = np.array([[b"a", b"bcd"], ["é".encode(), b""]], object)
    out = client.run("toy", {"text": given}, "words")
    kinds = {name: array.dtype for name, array in out.items()}
    assert kinds == {
        "text": object,
        "text_bytes": object,
        "length": np.int64,
        "long": bool,
        "half": np.float16,
        "double": np.float64,
    }
    assert all(array.shape == (2, 2) for array in out.values())
    assert out["text"].tolist() == [[b"A", b"BCD"], ["é".encode(), b""]]
    assert out["text_bytes"][0, 1] == b"\xff\0bcd"
    np.testing.assert_array_equal(out["length"] - 2**53, [[1, 3], [1, 0]])
    np.testing.assert_array_equal(out["double"], [[1 / 3, 1], [1 / 3, 0]])
    mixed = [["é", bytearray(b"x")], (memoryview(b"y"), tmp_path / "word")]
    assert client.run("toy", {"text": mixed}, "words")["text"].tolist() == [
        ["é".encode(), b"X"],
        [b"Y", b"READ\0"],
    ]
    for same in (np.array([["é", "x"]]), np.array([[b"\xc3\xa9", b"x"]])):
        out = client.run("toy", {"text": same}, "words")
        assert out["text"].tolist() == [["é".encode(), b"X"]]
    none = client.run("toy", {"image_bytes": np.empty(0, object)}, "segment_bytes")
    assert none["mask_bytes"].shape == (0,) and none["mask_bytes"].dtype == object
    assert from_json([], object, [-1, 3]).shape == (0, 3)  # which JSON cannot tell
    lone = client.run("toy", {"text": ["a", "b", "c"]}, "counted")
    assert lone.keys() == {"count"} and lone["count"] == 3 and lone["count"].dtype == np.int32


def test_numbers_may_be_lists(client):
    out = client.run("toy", {"a": [1, 2], "b": [0.5, 1.0]}, "two_inputs")
    np.testing.assert_allclose(out["sum"], [1.5, 3.0])
    assert out["name"].tolist() == [b"1", b"2"]
    strided = np.arange(24, dtype=">f4").reshape(2, 3, 4, 1)[:, ::-1, ::2]
    probabilities = client.run("toy", {"images": strided})["probabilities"]
    np.testing.assert_allclose(probabilities[..., :1], 1 - strided / 4)
    two = client.run("toy", {"images": [IMAGE[..., None].astype(np.float32)] * 2})
    assert two["probabilities"].shape == (2, 5, 7, 2)


def test_images_may_be_files(client, tmp_path):
    data = toy_models.png(3, 2, 200)
    (tmp_path / "a.png").write_bytes(data)
    images = [data, bytearray(data), memoryview(data), tmp_path / "a.png", str(tmp_path / "a.png")]
    masks = client.segment("toy", [*images, IMAGE[::-1, ::-1]])
    for mask in masks[:5]:
        np.testing.assert_array_equal(mask, np.full((3, 2), 55))
    np.testing.assert_array_equal(masks[5], 255 - IMAGE[::-1, ::-1])
    (out,) = client.run("toy", {"image_bytes": [tmp_path / "a.png"]}, "segment_bytes").values()
    assert out.shape == (1,)
    assert client.segment("toy", []) == []


def test_what_is_no_tensor_is_said(tmp_path):
    client = Client("http://127.0.0.1:1")
    for value, message in [
        ([[1, 2], [3]], "unequal sizes"),
        (["a", 1], "found int among strings"),
        ([["a"], ["b", "c"]], "found list among strings"),
        (np.array([1, "a"], object), "found int among strings"),
        (np.zeros(2, complex), "found complex128"),
        (np.array(["2026-01-01"], "datetime64[D]"), "found datetime64"),
        ({"a": 1}, "found object"),
        (tmp_path / "nothing", "nothing: cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            client.run("m", {"x": value})
    for images, message in [
        (b"png", "expected a list of images"),
        ("a.png", "expected a list of images"),
        ([str(tmp_path / "b.png")], "b.png: cannot be read"),
        (["a\0b"], "cannot be read"),
        ([np.zeros((2, 2))], "a PNG holds"),
        ([None], "a PNG holds"),
    ]:
        with pytest.raises(DataError, match=message):
            client.segment("m", images)


def test_an_answer_that_is_not_what_the_metadata_says(server):
    with Client(f"http://{server.rest_address}", token="a long token") as client:
        client.run("toy", {"a": [1], "b": [0.5]}, "two_inputs")
        known = client._transport._outputs
        assert known.keys() == {("/v1/models/toy", "two_inputs")}
        known["/v1/models/toy", "two_inputs"] = {"old": (np.float32, [-1])}  # another version's
        out = client.run("toy", {"a": [1], "b": [0.5]}, "two_inputs")
        assert out.keys() == {"sum", "name"}


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


class _Local:
    """Answers as a server of `trained` does, without the time that an export takes."""

    def __init__(self, trained):
        self.trained = trained
        self.sent = []

    def predict(self, model, signature, inputs, seconds):
        if signature == "tiling":
            return {key: np.int32([n]) for key, n in tiling_needs(self.trained).items()}
        (image,) = inputs["images"]
        self.sent.append(image.shape[:2])
        return {"probabilities": predict(self.trained, image)[None]}

    def status(self, name, seconds):
        return [{"version": 1, "state": "AVAILABLE", "error": ""}]


def _of_depth(depth, padding, upsampling="transpose", normalization=None):
    """A network in which far pixels matter: weights are larger than He's, so that nothing fades."""
    keras.utils.set_random_seed(0)
    network = build_unet(
        (None, None, 1),
        filters=2 if depth < 6 else 1,
        depth=depth,
        padding=padding,
        upsampling=upsampling,
        normalization=normalization,
    )
    for weight in network.trainable_weights:
        if "kernel" in weight.path:
            weight.assign(np.asarray(weight) * 1.6)
    trained = make_trained("range", padding)
    return trained._replace(network=network)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("depth", "upsampling"),
    [
        *((depth, "transpose") for depth in range(1, 7)),
        *(pytest.param(depth, "transpose", marks=pytest.mark.slow) for depth in (7, 8)),
        (3, "nearest"),
        (3, "bilinear"),
    ],
)
def test_tiles_of_any_network_equal_the_whole(depth, upsampling, padding):
    trained = _of_depth(depth, padding, upsampling)
    client = Client("http://127.0.0.1:1")
    local = client._transport = _Local(trained)
    needs = tiling_needs(trained)
    tile = 2 * needs["context"] + needs["stride"] + 1
    size = (tile + needs["stride"] + 5, 9)  # deep networks' tiles are thousands of pixels
    size = size if depth > 3 else (size[0], size[0] + 30)
    image = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    tiled = client.predict("any", image, tile=tile)
    assert len(local.sent) > 1 and max(max(sent) for sent in local.sent) <= tile
    np.testing.assert_allclose(tiled, predict(trained, image), atol=1e-5)


@pytest.mark.parametrize(("padding", "depth", "tile"), [("valid", 2, 112), ("same", 6, 1024)])
def test_a_huge_image_in_tiles_equals_the_whole(tmp_path, padding, depth, tile):
    trained = make_trained("range", padding) if depth == 2 else _of_depth(depth, padding)
    trained = trained._replace(network=in_float32(trained.network))
    write_saved_model(trained, tmp_path / "unet" / "1")
    size = (150, 211) if depth == 2 else (12, 1100)
    image = np.random.default_rng(0).integers(0, 255, (*size, 1), dtype=np.uint8)
    expected = predict(trained, image)
    with toy_models.serving(tmp_path) as server:
        for url in (f"grpc://{server.grpc_address}", f"http://{server.rest_address}"):
            with Client(url) as client:
                seen = []
                tiled = client.predict(
                    "unet", image, tile=tile, progress=lambda *done, seen=seen: seen.append(done)
                )
                assert seen[-1] == (len(seen), len(seen)) and len(seen) > 1
                np.testing.assert_allclose(tiled, expected, atol=1e-5)
                np.testing.assert_allclose(
                    client.predict("unet", image, tile=2000), expected, atol=1e-5
                )
                with pytest.raises(ConfigError, match="tile 20 is too small"):
                    client.predict("unet", image, tile=20)


def test_the_usual_tile_grows_with_what_the_network_sees():
    trained = _of_depth(6, "same")
    client = Client("http://127.0.0.1:1")  # 768 over REST, where the context alone takes 896
    local = client._transport = _Local(trained)
    image = np.random.default_rng(0).integers(0, 255, (1800, 3), dtype=np.uint8)
    tiled = client.predict("any", image)
    assert 1 < len(local.sent) < 4
    np.testing.assert_allclose(tiled, predict(trained, image), atol=1e-5)


def test_a_model_that_cannot_be_asked_is_sent_whole_or_refused(client):
    """Exports of older versions have no such signature."""
    image = np.zeros((70, 9), np.uint8)
    for tile in (64, 69):
        with pytest.raises(ServingError, match=r"does not say how.*70 x 9.*depth=4.*tile=70"):
            client.predict("toy", image, tile=tile)
    assert client.predict("toy", image, tile=70).shape == (70, 9, 2)
    assert client.predict("toy", image).shape == (70, 9, 2)
    assert client.predict("toy", image, tile=64, depth=1).shape == (70, 9, 2)
    with pytest.raises(ServingError, match="NOT_FOUND"):
        client.predict("nope", image, tile=64)


@pytest.mark.parametrize("normalization", ["group", None])
def test_what_depends_on_the_whole_image_is_said(normalization):
    trained = _of_depth(2, "same", normalization=normalization)
    if normalization is None:
        trained = make_trained("image", "same")
    client = Client("http://127.0.0.1:1")
    client._transport = _Local(trained)
    with pytest.warns(UserWarning, match="tiles give other values than the whole"):
        client.predict("any", np.eye(120), tile=100)


def test_one_version_answers_for_all_tiles():
    trained = _of_depth(1, "same")

    class Publishing(_Local):
        def predict(self, model, signature, inputs, seconds):
            self.versions = [*getattr(self, "versions", []), model[1]]
            return super().predict(model, signature, inputs, seconds)

        def status(self, name, seconds):
            states = {5: "LOADING", 4: "AVAILABLE", 3: "AVAILABLE", 2: "END"}
            return [{"version": n, "state": state, "error": ""} for n, state in states.items()]

    client = Client("http://127.0.0.1:1")
    local = client._transport = Publishing(trained)
    client.predict("any", np.zeros((80, 3)), tile=48)
    assert set(local.versions[1:]) == {4} and len(local.versions) > 2


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


def test_a_url_without_a_port_means_the_usual_one(monkeypatch):
    for url, address in [
        ("grpc://127.0.0.1", "127.0.0.1:8500"),
        ("GRPC://LocalHost/", "localhost:8500"),
        ("grpc://[::1]", "[::1]:8500"),
        ("grpcs://unet.example", "unet.example:8500"),
        ("grpc://[fe80::1]:9", "[fe80::1]:9"),
    ]:
        with Client(url) as client:
            assert client._transport._address == address
    with (
        Client("http://127.0.0.2", retries=0, seconds=5) as client,
        pytest.raises(ServingError, match=r"no port in the URL.*8501"),
    ):
        client.status("m")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_proxy_is_asked_for_this_machine(server, monkeypatch, protocol):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    address = server.grpc_address if protocol == "grpc" else server.rest_address
    with Client(f"{protocol}://{address}", token="a long token") as client:
        assert client.status("toy")
    with (
        Client("grpc://192.0.2.1", retries=0, seconds=5) as client,
        pytest.raises(ServingError, match="the proxy that https_proxy names"),
    ):
        client.status("toy")


def test_the_server_on_ipv6(root):
    with toy_models.serving(root, host="::1") as server:
        for url in (f"grpc://{server.grpc_address}", f"http://{server.rest_address}"):
            with Client(url) as client:
                assert client.predict("toy", IMAGE).shape == (5, 7, 2)


def test_wrong_arguments():
    for url in (
        "127.0.0.1:8500",
        "ftp://x",
        "grpc://",
        "grpc://h:99999",
        "http://[::1",
        "grpc://::1",
    ):
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
    with Image.open(written[2]) as mask:
        assert mask.mode == "P"  # viewers show colours
        np.testing.assert_array_equal(np.asarray(mask), 254 - IMAGE)
    typed = ["predict", "toy", str(tmp_path / "in"), "--output", str(tmp_path / "typed")]
    (tmp_path / "token").write_text("a long token\n")
    typed += ["--server", f"grpc://{server.grpc_address}", "--token-file", str(tmp_path / "token")]
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "typed").glob("[!.]*")) == names
    assert CliRunner().invoke(app, typed).exit_code == 0  # they are its own
    Image.fromarray(IMAGE // 2).save(tmp_path / "typed" / names[0])  # corrected by hand
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
