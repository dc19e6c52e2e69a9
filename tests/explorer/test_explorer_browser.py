"""The page in Chromium: nothing from elsewhere, no complaint, and the keyboard alone suffices."""

from __future__ import annotations

import time

import numpy as np
import pytest
from chromium import asked, chromium
from PIL import Image

from keras_unet import build_unet
from keras_unet.data import make_cells
from keras_unet.explorer import server

pytestmark = pytest.mark.browser
RIGHT, DOWN, ENTER = "\ue014", "\ue015", "\ue007"


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def page():
    image, labels = make_cells((300, 140), seed=1)
    model = build_unet(filters=2, depth=2)
    page = server.explore(
        model, image[:, :140], labels, instances=True, normalization="image", browser=False
    )
    yield page
    page.close()


def until(browser, script, *given, seconds=120):
    """Waits until a script's value is true, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = browser.execute_script(f"return {script}", *given)
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {script}")


@pytest.fixture
def opened(browser, page):
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(page.url)
    until(browser, "document.querySelectorAll('#u image').length")
    until(browser, "document.querySelectorAll('#channels img').length")
    return browser


def text(browser, name):
    return browser.find_element("id", name).text


def press(browser, key):
    actions = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    actions.send_keys(key).perform()


def test_every_tab_works_and_nothing_is_asked_of_elsewhere(opened, page):
    ready = {
        "stage": "document.querySelector('#channel img')",
        "pixel": "document.getElementById('work').innerText.length > 20",
        "learning": "document.getElementById('loss-text').innerText.includes('cross-entropy')",
        "warp": "document.getElementById('warp').naturalWidth",
        "noise": "document.querySelectorAll('#hist-values .plain').length",
    }
    for name, script in ready.items():
        opened.find_element("id", f"tab-{name}").click()
        until(opened, script)
    addresses = [url for url in asked(opened) if not url.startswith("blob:")]
    assert addresses and all(url.startswith(page.url) for url in addresses)
    assert [entry["message"] for entry in opened.get_log("browser")] == []
    assert text(opened, "status") == ""


def test_a_stage_opens_by_the_keyboard_alone(opened):
    opened.execute_script("document.querySelector('[data-stage=image]').focus()")
    for _ in range(3):
        press(opened, RIGHT)
    press(opened, ENTER)
    until(opened, "document.getElementById('stage-title').innerText.startsWith('down1_pool')")
    label = opened.switch_to.active_element.get_attribute("aria-label")
    assert "max pooling 2×2" in label and "2 channels" in label
    assert opened.switch_to.active_element.get_attribute("aria-pressed") == "true"
    buttons = opened.find_elements("css selector", "#channels button")
    assert len(buttons) == 2
    opened.execute_script("arguments[0].focus()", buttons[1])
    press(opened, ENTER)
    until(opened, "document.querySelectorAll('#channels button')[1].ariaPressed === 'true'")
    opened.execute_script("document.getElementById('tab-stage').focus()")
    press(opened, RIGHT)
    until(opened, "!document.getElementById('panel-pixel').hidden")


def test_arrow_keys_follow_a_pixel(opened, page):
    opened.find_element("id", "tab-pixel").click()
    until(opened, "document.getElementById('pixel-text').innerText")
    rows, columns = (n // 2 for n in page.session.size)
    opened.execute_script("document.getElementById('answer').focus()")
    press(opened, DOWN)
    press(opened, RIGHT)
    shown = f"Row {rows + 1}, column {columns + 1}:"
    until(opened, "document.getElementById('pixel-text').innerText.includes(arguments[0])", shown)
    frames = opened.execute_script(
        "return [...document.querySelectorAll('#u .stage')]"
        ".filter((s) => s.querySelector('.seen')).length"
    )
    assert frames == len(page.session.activations.order)
    for tries in range(5):  # a key goes lost where the U is drawn anew between focus and press
        opened.execute_script("document.querySelector('[data-stage=down2_conv1]').focus()")
        press(opened, ENTER)
        try:
            until(opened, "document.getElementById('work').innerText.includes('ReLU')", seconds=20)
            break
        except AssertionError:
            if tries == 4:
                raise
    assert "down2_conv1" in text(opened, "work") and "bias" in text(opened, "work")


def test_one_step_lowers_the_loss(opened, page):
    opened.find_element("id", "tab-learning").click()
    until(opened, "document.getElementById('loss-text').innerText")
    opened.find_element("css selector", "#rate option[value='0.001'], #rate option").click()
    opened.find_element("id", "step").click()
    until(opened, "document.getElementById('step-result').innerText.includes('Loss before')")
    assert "Smaller" in text(opened, "step-result")
    opened.find_element("id", "reset").click()
    until(opened, "document.getElementById('status').innerText.includes('as they were')")
    assert page.session.steps == []


def test_sliders_warp_and_copy(opened):
    opened.find_element("id", "tab-warp").click()
    before = until(opened, "document.getElementById('warp').src")
    opened.find_element("id", "range-elastic_sigma").send_keys(RIGHT)
    until(opened, "document.getElementById('warp').src !== arguments[0]", before)
    settings = opened.find_element("id", "settings").get_attribute("value")
    assert 'augment = "none"' in settings and "elastic_sigma = 10.5" in settings


def test_a_wrong_file_gives_a_readable_message(opened, page, tmp_path):
    wrong = tmp_path / "notes.png"
    wrong.write_text("no image")
    opened.find_element("id", "open-image").send_keys(str(wrong))
    until(opened, "document.getElementById('status').className === 'bad'")
    assert "notes.png" in text(opened, "status")
    right = tmp_path / "right.png"
    Image.fromarray(make_cells((64, 64), seed=2)[0]).save(right)
    name = page.session.name, page.session.pixels, page.session.labels
    opened.find_element("id", "open-image").send_keys(str(right))
    until(opened, "document.getElementById('status').innerText.includes('is shown')")
    assert "64 × 64" in text(opened, "summary")
    page.session.open_image(name[1], name[0])
    page.session.open_labels(name[2])


def test_a_click_moves_the_tile_of_a_large_image(browser):
    image, labels = make_cells((700, 900), seed=1)
    session = server.Session(
        build_unet(filters=1, depth=2), image, labels, instances=True, normalization="image"
    )
    page = server.Explorer(session)
    try:
        browser.get(page.url)
        until(browser, "document.querySelector('#overview .seen')")
        before = session.origin
        browser.execute_script("document.getElementById('overview').focus()")
        press(browser, DOWN)
        until(browser, "state.tile.origin[0] > arguments[0]", before[0])
        assert session.origin[0] > before[0] and session.origin[1] == before[1]
    finally:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened, page, scheme):
    """Contrast of text to its ground by WCAG 2: 4.5 or more."""
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    found = opened.execute_script(
        "const style = (s) => getComputedStyle(document.querySelector(s));"
        "const back = style('body').backgroundColor;"
        "return [[style('body').color, back], [style('.soft').color, back],"
        "[style('#panel-stage a').color, back], [style('.button').color, "
        "style('.button').backgroundColor], [style('[aria-selected=true]').color,"
        "style('[aria-selected=true]').backgroundColor]]"
    )
    for one, ground in found:
        levels = sorted(_luminance(color) for color in (one, ground))
        assert (levels[1] + 0.05) / (levels[0] + 0.05) >= 4.5, (one, ground)
    assert (_luminance(found[0][1]) > 0.5) == (scheme == "light")


def test_everything_that_is_pressed_has_a_name(opened):
    nameless = opened.execute_script(
        "return [...document.querySelectorAll('button, select, input, a, [role=button],"
        " svg[role]')]"
        ".filter((e) => !(e.ariaLabel || e.innerText || e.textContent || e.labels?.length"
        " || e.getAttribute('aria-labelledby'))).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert [one for one in nameless if "hist" not in one] == []
    alts = opened.execute_script("return [...document.images].every((i) => i.hasAttribute('alt'))")
    assert alts


def test_a_phone_shows_it_without_sideways_scrolling(opened):
    opened.set_window_size(500, 900)  # the least that Chromium has
    assert opened.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    opened.set_window_size(1200, 900)


def _luminance(color):
    parts = np.array([int(part) for part in color.strip("rgba()").split(",")[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
