"""The pages in a real browser: they open, pictures load, sorting works, nothing is asked for."""

from __future__ import annotations

import pytest
from chromium import asked, chromium
from made_evaluation import NAMES, make_evaluation

from keras_unet.data import LabelRule
from keras_unet.evaluation import compare
from keras_unet.evaluation.report import write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, noise in (("a", 0.4), ("b", 1.0)):
        make_evaluation(folder / name, name=name, noise=noise, isbi=True)
    compare(folder / "a", folder / "b", output=folder / "compare.html")
    return {"report": folder / "a" / "report.html", "compare": folder / "compare.html"}


def visit(browser, path):
    """Opens a page and returns the addresses that it asked for and what it complained about."""
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(path.as_uri())
    browser.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...document.images].map((i) => i.decode().catch(() => 0))).then(done)"
    )
    return asked(browser), [entry["message"] for entry in browser.get_log("browser")]


def order(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.dataset.image)"
    return browser.execute_script(script, selector)


@pytest.mark.parametrize("name", ["report", "compare"])
def test_opens_from_a_file_and_asks_for_nothing_else(browser, pages, name):
    requests, complaints = visit(browser, pages[name])
    assert requests[0] == pages[name].as_uri()
    assert not [url for url in requests[1:] if not url.startswith("data:image/")]
    assert complaints == []  # neither errors nor what the content security policy stopped
    sizes = browser.execute_script(
        "return [...document.images].map((i) => [i.naturalWidth, i.naturalHeight])"
    )
    assert sizes == [[48, 40]] * 2 * len(NAMES)  # two layers, or two runs
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )


@pytest.mark.parametrize("name", ["report", "compare"])
def test_clicking_a_column_sorts_table_and_pictures(browser, pages, name):
    visit(browser, pages[name])
    before = order(browser, "table.sortable tbody tr")
    assert before == order(browser, "#gallery figure")
    buttons = browser.find_elements("css selector", "table.sortable th button")
    columns = [button.text for button in buttons]
    assert columns[0] == "image"
    for place, button in enumerate(buttons):
        for _ in range(2):
            button.click()
            rows = order(browser, "table.sortable tbody tr")
            assert sorted(rows) == sorted(before)
            assert rows == order(browser, "#gallery figure")
            cells = browser.execute_script(
                "return [...document.querySelectorAll('table.sortable tbody tr')]"
                ".map((r) => r.children[arguments[0]].dataset.value)",
                place,
            )
            way = button.find_element("xpath", "..").get_attribute("aria-sort")
            keys = cells if place == 0 else [float(cell) for cell in cells]
            assert keys == sorted(keys, reverse=way == "descending")
    states = browser.execute_script("return document.querySelectorAll('[aria-sort]').length")
    assert states == 1
    assert not asked(browser)  # since the page was opened


def test_undefined_scores_stay_last_whatever_the_order(browser, tmp_path):
    names = ("a", "b", "c")
    evaluation = make_evaluation(tmp_path, names=names)
    images = {**evaluation.images, "b": {**evaluation.images["b"], "mean_dice": None}}
    write_report(evaluation.model_copy(update={"images": images}), {}, tmp_path / "r.html")
    visit(browser, tmp_path / "r.html")
    button = browser.find_elements("css selector", "table.sortable th button")[2]
    assert button.text == "mean Dice"
    for _ in range(2):
        button.click()
        assert order(browser, "table.sortable tbody tr")[-1] == "b"


def test_errors_can_be_hidden_and_pictures_enlarged(browser, pages):
    visit(browser, pages["report"])
    layer = browser.find_element("css selector", ".picture .errors")
    image = browser.find_element("css selector", ".picture img:not(.errors)")
    switch = browser.find_element("id", "errors")
    assert layer.is_displayed()
    assert image.value_of_css_property("filter") == "grayscale(1)"
    switch.click()
    assert not layer.is_displayed()
    assert image.value_of_css_property("filter") == "none"
    switch.click()
    assert layer.is_displayed()
    picture = browser.find_element("css selector", "button.picture")
    width = picture.size["width"]
    picture.click()
    assert picture.size["width"] > 2 * width
    assert picture.get_attribute("aria-pressed") == "true"
    picture.send_keys("\ue007")  # the enter key does what a click does
    assert picture.size["width"] == width


@pytest.mark.parametrize("classes", [("background", "cell"), tuple("abcdef")])
def test_the_confusion_matrix_is_whole_at_1100_pixels(browser, tmp_path, monkeypatch, classes):
    rule = LabelRule(num_classes=len(classes))
    monkeypatch.setattr("made_evaluation.LabelRule", lambda: rule)
    make_evaluation(tmp_path, names=("a", "b"), classes=classes)
    browser.set_window_size(1100, 900)
    visit(browser, tmp_path / "report.html")
    cut = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText)"
    )
    assert cut == []
    browser.set_window_size(500, 900)  # the least that Chromium has
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    browser.set_window_size(1200, 900)


def test_links_lead_to_the_pictures(browser, pages):
    visit(browser, pages["report"])
    for link in browser.find_elements("css selector", "figcaption a"):
        address = link.get_attribute("href")
        assert address.startswith(pages["report"].parent.as_uri() + "/overlays/")
    link = browser.find_element("css selector", "table.sortable tbody a")
    target = link.get_attribute("href").partition("#")[2]
    link.click()
    place = browser.execute_script(
        "return document.getElementById(arguments[0]).getBoundingClientRect().top", target
    )
    assert -5 <= place <= 900
    (browser.find_elements("css selector", "figcaption a"))[0].click()
    assert browser.execute_script("return document.images[0].naturalWidth") >= 48
    assert browser.execute_script("return document.images[0].naturalHeight") > 40  # a legend


def test_a_script_in_a_name_does_not_run(browser, tmp_path):
    evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    make_evaluation(tmp_path, name=evil, names=(evil.replace("/", ""), "b"))
    _, complaints = visit(browser, tmp_path / "report.html")
    assert browser.title == f"Evaluation of {evil}"
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser, pages, scheme):
    """Contrast of text to its ground by WCAG 2: 4.5 or more."""
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    visit(browser, pages["report"])
    colors = browser.execute_script(
        "const style = (s) => getComputedStyle(document.querySelector(s));"
        "const back = style('body').backgroundColor, panel = style('.cards > div').backgroundColor;"
        "return [[style('body').color, back], [style('.soft').color, back],"
        "[style('a').color, back], [style('.cards dt').color, panel],"
        "[style('td .range').color, back]]"
    )
    for text, ground in colors:
        levels = sorted(_luminance(color) for color in (text, ground))
        assert (levels[1] + 0.05) / (levels[0] + 0.05) >= 4.5, (text, ground)
    light = _luminance(colors[0][1]) > 0.5
    assert light == (scheme == "light")


def _luminance(color):
    parts = [int(part) / 255 for part in color.strip("rgba()").split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
