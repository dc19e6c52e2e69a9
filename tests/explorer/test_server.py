"""The page's server: what it answers, whom it answers, and readable errors."""

from __future__ import annotations

import http.client
import io
import json
import socket
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image

import keras_unet
from keras_unet import build_unet
from keras_unet.data import make_cells
from keras_unet.errors import ConfigError, DataError
from keras_unet.explorer import server


@pytest.fixture(scope="module")
def model():
    return build_unet(filters=2, depth=2)


@pytest.fixture
def page(model):
    image, labels = make_cells((90, 70), seed=1)
    page = server.explore(
        model, image, labels, instances=True, normalization="image", browser=False
    )
    yield page
    page.close()


def request(page, path, query=None, method="GET", body=None, host=None):
    url = urlsplit(page.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=120)
    headers = {"Host": host} if host else {}
    target = f"{url.path}{path}?{urlencode(query or {})}"
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def read(page, path, query=None, **options):
    answer, data = request(page, path, query, **options)
    assert answer.status == 200, data
    return json.loads(data)


def png(page, path, query=None):
    answer, data = request(page, path, query)
    assert answer.status == 200, data
    return Image.open(io.BytesIO(data))


def encoded(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_state_names_every_stage_and_where_it_stands(page, model):
    state = read(page, "state")
    assert [s["layer"] for s in state["stages"]][:3] == ["image", "down1_conv1", "down1_conv2"]
    assert {s["crop"] for s in state["stages"]} == {0, 4, 16}
    assert state["image"]["size"] == [90, 70]
    assert state["tile"]["size"] == list(page.session.activations.maps["logits"].size)
    assert state["labels"] is True and state["tile"]["chosen"] is False
    boxes = {s["layer"]: s["box"] for s in state["stages"]}
    assert boxes["bridge_conv1"][3] < boxes["down2_conv1"][2] < boxes["down1_conv1"][2]


def test_pictures_are_png_of_the_maps(page):
    for stage in read(page, "state")["stages"]:
        shown = png(page, "map.png", {"stage": stage["layer"], "channel": stage["shown"]})
        assert shown.size == tuple(stage["size"][::-1])
        assert png(page, "map.png", {"stage": stage["layer"], "pixels": 32}).size[0] <= 32
    for what in ("loss", "weights", "product"):
        assert png(page, "learning.png", {"what": what}).size[0] >= 70
    assert png(page, "answer.png", {"class": 1}).size[0] >= 70
    assert png(page, "overview.png").size == (70, 90)
    settings = json.dumps({"elastic_sigma": 4, "rotate": [-20, 20]})
    query = {"settings": settings, "seed": 3, "lattice": "true"}
    assert png(page, "warp.png", query).size == (70, 90)


def test_channels_come_sorted_by_energy(page):
    found = read(page, "channels", {"stage": "up1_concat"})
    energy = [c["energy"] for c in found["channels"]]
    assert energy == sorted(energy, reverse=True) and found["parts"] == [2, 2]
    values = page.session.activations.array("up1_concat")
    for one in found["channels"]:
        mine = values[..., one["channel"]]
        assert one["energy"] == pytest.approx(float((mine.astype(float) ** 2).mean()), rel=1e-4)
        assert (one["low"], one["high"]) == (mine.min(), mine.max())
    kernel = read(page, "kernel", {"stage": "down2_conv1", "channel": 1})
    assert kernel["count"] == 2 and np.shape(kernel["kernels"][0]["values"]) == (3, 3)
    assert read(page, "kernel", {"stage": "down1_pool", "channel": 0})["kernels"] == []
    assert np.shape(
        read(page, "kernel", {"stage": "up1_concat", "channel": 2})["kernels"][0]["values"]
    ) == (2, 2)


def test_a_pixel_and_its_work(page):
    found = read(page, "pixel", {"y": 40, "x": 30})
    assert sum(found["probabilities"]) == pytest.approx(1) and found["true"] in (0, 1)
    for stage in found["fields"]:
        work = read(page, "work", {"stage": stage, "y": 40, "x": 30})
        assert np.isfinite(work["value"])
    assert read(page, "work", {"stage": "image", "y": 40, "x": 30})["raw"] <= 255


def test_a_step_changes_the_page_and_reset_brings_it_back(page):
    before = read(page, "learning")
    version = read(page, "state")["version"]
    body = json.dumps({"rate": 0.01})
    found = read(page, "step", method="POST", body=body)
    assert found["before"] == pytest.approx(before["weighted"], rel=1e-4)
    after = read(page, "learning")
    assert after["weighted"] == pytest.approx(found["after"], rel=1e-4)
    assert read(page, "state")["version"] > version
    read(page, "reset", method="POST", body="")
    assert read(page, "learning")["weighted"] == pytest.approx(before["weighted"], rel=1e-6)


def test_the_model_that_was_given_stays_as_it_is(model, page):
    before = [w.copy() for w in model.get_weights()]
    read(page, "step", method="POST", body=json.dumps({"rate": 1}))
    for one, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, old)


def test_files_are_opened_and_wrong_ones_are_named(page):
    image, labels = make_cells((64, 80), seed=4)
    state = read(page, "open", {"kind": "image", "name": "b.png"}, method="POST",
                 body=encoded(image))  # fmt: skip
    assert state["image"] == {"name": "b.png", "size": [64, 80], "channels": 1}
    assert state["labels"] is False
    read(page, "open", {"kind": "labels", "name": "l.png"}, method="POST",
         body=encoded(labels.astype(np.uint16)))  # fmt: skip
    for kind, body, message in (
        ("image", b"no image at all", "a.png"),
        ("image", encoded(np.zeros((8, 8, 3), np.uint8)), "3 channels"),
        ("labels", encoded(np.zeros((8, 8), np.uint8)), "expected integers of the image's size"),
        ("sound", b"", "expected image or labels"),
    ):
        query = {"kind": kind, "name": "a.png"}
        answer, data = request(page, "open", query, method="POST", body=body)
        assert answer.status == 400
        assert message in json.loads(data)["error"] and "/tmp" not in data.decode()
    assert read(page, "state")["image"]["name"] == "b.png"


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("map.png", {"stage": "nowhere"}, "expected one of image"),
        ("map.png", {"stage": "logits", "channel": 7}, "0 to 1"),
        ("answer.png", {"class": -1}, "0 to 1"),
        ("map.png", {"stage": "logits", "pixels": 10**6}, "1 to 4096"),
        ("pixel", {"y": 9999, "x": 0}, "outside of the answer"),
        ("pixel", {"y": "one", "x": 0}, "whole number"),
        ("learning.png", {"what": "sound"}, "expected one of loss"),
        ("warp.png", {"settings": '{"elastic_sgima": 1}'}, "elastic_sgima"),
        ("warp.png", {"settings": "no"}, "no JSON"),
    ],
)
def test_wrong_requests_are_told_what_is_expected(page, path, query, message):
    answer, data = request(page, path, query)
    assert answer.status == 400 and message in json.loads(data)["error"]


def test_only_this_machine_and_only_with_the_secret(page):
    url = urlsplit(page.url)
    assert url.hostname == "127.0.0.1" and len(url.path) > 12
    assert request(page, "state", host="elsewhere.example")[0].status == 403
    connection = http.client.HTTPConnection(url.hostname, url.port)
    connection.request("GET", "/state")
    assert connection.getresponse().status == 404
    for path in ("../server.py", "figures/../guide.md", "cells.keras", "nothing"):
        assert request(page, path)[0].status == 404
    assert request(page, "step")[0].status == 404  # asked for, not posted
    answer, _ = request(page, "")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_a_stranger_sends_is_not_read(page):
    url = urlsplit(page.url)
    for path, length in (("/open", "400000000"), (url.path + "open", "²")):
        with socket.create_connection((url.hostname, url.port), timeout=60) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{url.port}\r\n"
            connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode("latin-1"))
            answer = connection.makefile("rb").read()  # to the end: the connection is closed
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 413"))


def test_pixels_that_were_not_measured_are_no_numbers(model):
    image = make_cells((60, 60), seed=1)[0].astype(np.float32)
    image[:20] = np.nan
    session = server.Session(model, image, normalization="image")
    assert np.isfinite([session._low, session._high]).all()
    assert np.asarray(Image.open(io.BytesIO(session.overview_png())))[30:].std() > 10
    top = session.work("image", 0, 0, 0)
    assert top["raw"] is None or np.isfinite(top["raw"])
    json.dumps(top, allow_nan=False)


def test_the_made_up_cells_say_nothing_of_other_labels(model):
    session = server.Session(model)
    session.open_image(np.zeros((60, 60), np.uint8), "mine")
    with pytest.raises(DataError, match="--instances"):
        session.open_labels(np.arange(3600, dtype=np.int32).reshape(60, 60))


def test_the_guide_has_every_section_that_the_page_links_to(page):
    text = request(page, "guide")[1].decode()
    for section in server.SECTIONS.values():
        assert f'id="{section}"' in text
    assert 'href="training.md"' not in text
    assert request(page, "figures/architecture.png")[0].status == 200


def test_a_large_image_is_shown_by_a_tile(model):
    image, labels = make_cells((500, 600), seed=1)
    session = server.Session(model, image, labels, instances=True, normalization="image")
    assert session.state()["tile"]["chosen"] is True
    session.show_tile(10_000, -5)
    rows, columns = session.size
    assert session.origin == (500 - rows, 0)
    top = session.origin[0]
    np.testing.assert_array_equal(session.goal.classes.shape, session.size)
    margin = (session.input[0] - rows) // 2
    np.testing.assert_array_equal(
        session.tile[margin : margin + rows, margin : margin + columns, 0],
        image[top:, :columns],
    )


def test_the_tile_is_what_predict_gives(model):
    image, _ = make_cells((90, 70), seed=1)
    session = server.Session(model, image, normalization="image")
    found = session.network.probabilities(session.activations.array("logits"))[:90, :70]
    expected = keras_unet.predict(model, image, normalization="image")
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(DataError, match="3 channels"):
        server.Session(model, np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ConfigError, match="give that too"):
        server.Session(model, labels=np.zeros((40, 40), np.int32))
    with pytest.raises(ConfigError, match="give an image"):
        server.Session(build_unet((None, None, 3), filters=1, depth=1))


def test_without_arguments_the_small_network_finds_the_made_up_cells():
    page = keras_unet.explore(browser=False)
    try:
        assert server.SMALL_MODEL.stat().st_size <= 300_000
        state = page.session.state()
        assert state["labels"] and state["tile"]["input"] == [572, 572]
        assert {s["crop"] for s in state["stages"]} == {0, 4, 16, 40, 88}
        assert page.session.learning()["right"] > 0.85
        assert page.url in page._repr_html_()
    finally:
        page.close()
