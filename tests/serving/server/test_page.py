"""The page at / in a real browser: an image in, its mask over it, the threshold, the download."""

from __future__ import annotations

import time

import numpy as np
import pytest
import requests
import toy_models
from chromium import asked, chromium
from conftest import make_trained, of_instances
from PIL import Image
from scipy.ndimage import gaussian_filter

from keras_unet.data import read_image
from keras_unet.inference import predict, segment
from keras_unet.models import in_float32
from keras_unet.pictures import OBJECT_COLORS
from keras_unet.serving import write_saved_model
from keras_unet.serving.server.http import index_page

TOKEN = "a token of this test"


def test_the_page_may_run_only_its_own_script():
    body, headers = index_page()
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    assert b"http://" not in body and b"https://" not in body  # nothing from elsewhere
    assert b" style=" not in body and b" onclick" not in body  # the policy would drop them


@pytest.fixture(scope="module")
def trained():
    trained = make_trained("range")
    return trained._replace(network=in_float32(trained.network))


@pytest.fixture(scope="module")
def root(tmp_path_factory, trained):
    root = tmp_path_factory.mktemp("saved_models")
    write_saved_model(trained, root / "cells" / "1")
    return root


@pytest.fixture
def browser(tmp_path):
    with chromium(tmp_path / "got") as driver:
        yield driver


def wait(condition, seconds=30):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)
    return found


def share(browser):
    return float(browser.find_element("id", "view").get_attribute("data-share") or -1)


def pixels(browser, height, width):
    seen = browser.execute_script(
        "const c = document.getElementById('view');"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    )
    return np.array(seen).reshape(height, width, 4)[..., :3]


def move(browser, threshold):
    browser.execute_script(
        "const t = document.getElementById('threshold'); t.value = arguments[0];"
        "t.dispatchEvent(new Event('input'))",
        threshold,
    )


@pytest.mark.browser
def test_an_image_is_segmented_in_the_browser(browser, root, trained, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (60, 90), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "my cells.png")
    foreground = predict(trained, image)[..., 1]
    with toy_models.serving(root) as server:
        browser.get(f"http://{server.rest_address}/")
        wait(lambda: browser.find_element("id", "model").get_attribute("value") == "cells")
        browser.find_element("id", "file").send_keys(str(tmp_path / "my cells.png"))
        wait(lambda: share(browser) >= 0)
        assert "90 × 60 pixels" in browser.find_element("id", "status").text
        seen = {}
        for threshold in (0, 100, 128, 150, 255):
            move(browser, threshold)
            seen[threshold] = share(browser)
            near = np.abs(foreground * 255 - threshold) < 1.5  # rounding to 8 bits
            expected = (foreground * 255 >= threshold).mean()
            assert abs(seen[threshold] - expected) <= near.mean() + 1e-3
        assert len(set(seen.values())) > 1
        move(browser, 128)
        browser.find_element("id", "download").click()
        saved = wait(lambda: list((tmp_path / "got").glob("*.png")))
        assert saved[0].name == "my cells_mask.png"
        mask = np.asarray(Image.open(saved[0]).convert("L"))
        assert mask.shape == (60, 90) and set(np.unique(mask)) <= {0, 255}
        assert abs((mask == 255).mean() - seen[128]) < 1e-3
        base = f"http://{server.rest_address}/"
        outside = [u for u in asked(browser) if not u.startswith((base, "blob:", "data:"))]
        assert not [u for u in outside if not u.startswith("chrome")], outside
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
        (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
        browser.find_element("id", "file").send_keys(str(tmp_path / "bad.png"))
        status = browser.find_element("id", "status")
        wait(lambda: status.get_attribute("class") == "bad")


@pytest.mark.browser
@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_a_photograph_and_its_mask_are_upright(browser, root, trained, tmp_path, form):
    image = np.random.default_rng(0).integers(0, 255, (60, 90), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / f"turned.{form}"
    Image.fromarray(image).save(file, exif=exif, quality=95)
    upright = read_image(file)
    assert upright.shape == (90, 60, 1)
    with toy_models.serving(root) as server:
        browser.get(f"http://{server.rest_address}/")
        wait(lambda: browser.find_element("id", "model").get_attribute("value") == "cells")
        browser.find_element("id", "file").send_keys(str(file))
        status = browser.find_element("id", "status")
        wait(lambda: share(browser) >= 0 or status.get_attribute("class") == "bad")
        assert "60 × 90 pixels" in status.text
        browser.execute_script("document.getElementById('opacity').value = 0; draw()")
        shown = pixels(browser, 90, 60)[..., :1]
    assert np.abs(shown.astype(int) - upright).max() <= 4


@pytest.mark.browser
def test_objects_are_outlined_counted_and_downloaded(browser, root, trained, tmp_path):
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(60, 90)), 3)
    image = np.clip(128 + 600 * noise, 0, 255).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "nuclei.png")
    middle = float(np.median(predict(trained, image)[..., 1]))
    model = of_instances(trained, threshold=middle, min_size=4)
    expected = segment(model, image)
    write_saved_model(model, tmp_path / "models" / "nuclei" / "1")
    (tmp_path / "models" / "plain").symlink_to(root / "cells")
    with toy_models.serving(tmp_path / "models") as server:
        browser.get(f"http://{server.rest_address}/")
        choice, status = (browser.find_element("id", name) for name in ("model", "status"))
        view = browser.find_element("id", "view")
        wait(lambda: choice.get_attribute("value") == "nuclei")
        browser.find_element("id", "file").send_keys(str(tmp_path / "nuclei.png"))
        wait(lambda: view.get_attribute("data-objects") or status.get_attribute("class") == "bad")
        assert not browser.find_element("id", "levels").is_displayed()
        browser.find_element("id", "download").click()
        (saved,) = wait(lambda: list((tmp_path / "got").glob("*.png")))
        labels = np.asarray(Image.open(saved)).astype(int)
        assert saved.name == "nuclei_labels.png"
        assert 5 < labels.max() == int(view.get_attribute("data-objects"))
        assert f"90 × 60 pixels, {labels.max()} objects" in status.text
        assert abs(labels.max() - expected.max()) <= 1  # a pixel may lie on the threshold
        browser.execute_script("document.getElementById('opacity').value = 100; draw()")
        shown = pixels(browser, 60, 90)
        lines = np.zeros(labels.shape, bool)
        for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            lines[here] |= labels[here] != labels[there]
            lines[there] |= labels[here] != labels[there]
        lines &= labels > 0
        colours = {
            number: {tuple(one) for one in shown[lines & (labels == number)].tolist()}
            for number in range(1, labels.max() + 1)
        }
        assert all(len(found) == 1 for found in colours.values())
        used = set.union(*colours.values())
        assert used == {tuple(one) for one in OBJECT_COLORS.tolist()}
        for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            touch = (labels[here] != labels[there]) & (labels[here] > 0) & (labels[there] > 0)
            for one, other in zip(labels[here][touch], labels[there][touch], strict=True):
                assert colours[one] != colours[other]
        np.testing.assert_array_equal(shown[labels == 0], image[labels == 0][:, None].repeat(3, 1))
        kinds = browser.find_element("id", "kind")
        kinds.find_element("css selector", "[value=share]").click()
        wait(lambda: share(browser) >= 0)
        assert browser.find_element("id", "levels").is_displayed()
        choice.find_element("css selector", "[value=plain]").click()
        wait(lambda: not kinds.is_displayed())  # of classes; the image is sent to it at once
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.browser
def test_a_token_is_asked_for_in_the_browser(browser, root):
    with toy_models.serving(root, token=TOKEN) as server:
        browser.get(f"http://{server.rest_address}/")
        field = browser.find_element("id", "token")
        wait(field.is_displayed)
        field.send_keys(TOKEN, "\n")
        wait(lambda: browser.find_element("id", "model").get_attribute("value") == "cells")
        assert TOKEN not in requests.get(f"http://{server.rest_address}/", timeout=20).text
