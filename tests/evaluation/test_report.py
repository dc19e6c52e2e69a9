"""The pages are whole, escape what they show, and say what the numbers say."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re
from urllib.parse import unquote

import numpy as np
import pytest
from made_evaluation import NAMES, make_evaluation, scene
from PIL import Image

from keras_unet.evaluation import compare, read_evaluation
from keras_unet.evaluation.html import Html, data_uri, join, page, tag
from keras_unet.evaluation.report import Gallery, make_report, thumbnail
from keras_unet.pictures import (
    FALSE,
    MISSED,
    OUTLINE,
    Entry,
    class_color,
    class_entries,
    error_entries,
    error_marks,
    overlay,
    save_png,
    to_rgb,
    with_legend,
    without_legend,
)

EVIL = '<script>alert("x")</script>&\'"><img src=http://evil.example/x onerror=alert(1)>'


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def named(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def test_text_and_attributes_are_escaped_unless_made_here():
    made = tag("a", EVIL, tag("b", "<i>"), class_="x", href=EVIL, hidden=True, title=None)
    seen = Page(made)
    assert [name for name, _ in seen.elements] == ["a", "b"]
    assert seen.elements[0][1] == {"class": "x", "href": EVIL, "hidden": None}
    assert seen.text == EVIL + "<i>"
    assert isinstance(made, Html) and join([1, None, ["<"]]) == "1&lt;"


def test_the_policy_allows_this_style_and_script_alone():
    seen = page("a </title> b", tag("p", "text"))
    (policy,) = [m["content"] for m in Page(seen).named("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for name in ("style", "script"):
        (content,) = re.findall(f"<{name}>(.*?)</{name}>", seen, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "<p>text</p>" in seen and "a &lt;/title&gt; b" in seen


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A report and a comparison whose every name is hostile."""
    folder = tmp_path_factory.mktemp("evil")
    names = tuple(f"{EVIL.replace('/', '-')}{k}" for k in range(3))
    options = {"names": names, "classes": ("background", EVIL), "isbi": True}
    for run, noise in (("a", 0.3), ("b", 0.9)):
        make_evaluation(folder / run, name=EVIL, noise=noise, **options)
    compare(folder / "a", folder / "b", output=folder / "c.html")
    return [(folder / file).read_text() for file in ("a/report.html", "c.html")], names


def test_hostile_names_stay_text(evil):
    pages, names = evil
    for text in pages:
        seen = Page(text)
        assert not seen.open
        assert len(seen.named("script")) == 1 and not seen.named("script")[0]
        for kind, attributes in seen.elements:
            assert not [key for key in attributes if key.startswith("on") or key == "style"]
            for key in ("src", "href"):
                if key in attributes:
                    assert re.match(r"#image-\d|overlays/|data:image/", attributes[key]), kind
        for image in seen.named("img"):
            source = image["src"].partition("base64,")[2]
            assert Image.open(io.BytesIO(base64.b64decode(source))).size[0] == int(image["width"])
        assert EVIL in seen.text and names[0] in seen.text
        assert not [m for m in seen.named("meta") if m.get("http-equiv") == "refresh"]


def test_a_report_shows_the_stored_numbers(tmp_path):
    evaluation = make_evaluation(tmp_path, isbi=True)
    assert read_evaluation(tmp_path) == evaluation
    seen = Page((tmp_path / "report.html").read_text())
    total = evaluation.total
    for value in (total["mean_iou"], total["dice"]["cell"], total["objects"]["f1"]):
        assert f"{value:.4f}" in seen.text
    low, high = evaluation.intervals["objects"]["seg"]
    assert f"{low:.3f} – {high:.3f}" in seen.text
    rows = [r["data-image"] for r in seen.named("tr") if "data-image" in r]
    figures = [f["data-image"] for f in seen.named("figure") if "data-image" in f]
    worst_first = sorted(NAMES, key=lambda name: evaluation.images[name]["mean_iou"])
    assert rows == figures == worst_first
    for name in NAMES:
        assert (tmp_path / "overlays" / f"{name}.png").is_file()
    assert f"overlays/{NAMES[0].replace(' ', '%20')}.png" in [
        a.get("href") for a in seen.named("a")
    ]
    words = "Scores by class|ISBI 2012|Confusion matrix|Probabilities|Model|What to look at next"
    for word in words.split("|"):
        assert word in seen.text
    bare = Page(make_report(evaluation, {}))  # no picture is held: all are linked
    assert not bare.named("img") and "other 5 linked" in bare.text


def test_one_image_has_no_interval_and_says_so(tmp_path):
    evaluation = make_evaluation(tmp_path, names=("only",))
    assert evaluation.intervals["mean_iou"] == [None, None]
    seen = Page((tmp_path / "report.html").read_text())
    assert "no intervals" in seen.text and "no interval" in seen.text
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()
    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)


def test_marks_say_what_kind_of_error_a_pixel_is():
    truth = np.zeros((9, 9), int)
    truth[2:7, 2:7] = 1
    truth[0, 0] = -1
    seen = np.zeros((9, 9), int)
    seen[:, 4:8] = 1
    marks = error_marks(seen, truth)
    assert (marks == MISSED).sum() == np.sum((truth == 1) & (seen == 0)) == 10
    assert (marks == FALSE).sum() == np.sum((truth == 0) & (seen == 1))
    assert marks[2, 5] == OUTLINE and marks[4, 5] == 0 and marks[0, 0] == 0
    picture = overlay(np.full((9, 9, 1), 100, np.uint8), seen, truth)
    assert picture[4, 2].tolist() == [0, 79, 124]  # missed: blue on black
    assert picture[0, 5].tolist() == [149, 65, 0]  # false: red


def test_colours_of_8_bit_rgb_are_shown_as_they_are_and_errors_on_grey():
    rng = np.random.default_rng(0)
    lilac = rng.integers((170, 130, 190), (210, 170, 230), (40, 50, 3)).astype(np.uint8)
    assert np.array_equal(to_rgb(lilac), lilac)
    assert np.array_equal(to_rgb(np.dstack([lilac, lilac[..., :1]])), lilac)  # with an alpha
    deep = to_rgb(lilac.astype(np.uint16) * 16)  # 12 bit: would be black
    assert deep.min() == 0 and deep.max() == 255
    grey = to_rgb(lilac[..., :1])
    assert grey.min() == 0 and grey.max() == 255 and (grey[..., 0] == grey[..., 2]).all()
    nothing = np.zeros(lilac.shape[:2], int)
    seen = nothing.copy()
    seen[10:20, 10:20] = 1
    tinted, errors = overlay(lilac, seen), overlay(lilac, seen, nothing)
    assert np.array_equal(tinted[seen == 0], lilac[seen == 0])
    assert (np.ptp(errors[seen == 0].astype(int), axis=-1) == 0).all()
    assert (errors[seen == 1] @ [1, 0, -1] > 100).all()  # false: red


@pytest.mark.parametrize("shape", [(30, 20), (256, 256), (700, 2048)])
def test_a_legend_names_the_colours_below_the_picture(tmp_path, shape):
    picture = np.full((*shape, 3), 90, np.uint8)
    names = ["background", "a cell", "x" * 300, "Ω-Körper\n2"]
    classes = np.zeros(shape, int)
    classes[0, :3] = 1, 2, 3
    entries = class_entries(classes, names)
    assert [entry.text for entry in entries] == names[1:]
    whole = with_legend(picture, entries)
    assert np.array_equal(whole[: shape[0], : shape[1]], picture)
    strip = whole[shape[0] :].reshape(-1, 3)
    for entry in entries:
        assert (strip == entry.color).all(-1).sum() > 50
    assert class_entries(classes * 0, names) == [Entry(None, "background only")]
    save_png(tmp_path / "a.png", picture, entries)
    with Image.open(tmp_path / "a.png") as file:
        assert np.array_equal(np.asarray(file), whole)
        assert np.array_equal(np.asarray(without_legend(file)), picture)
    save_png(tmp_path / "b.png", picture)
    with Image.open(tmp_path / "b.png") as file:
        assert np.array_equal(np.asarray(without_legend(file)), picture)


def test_the_legend_of_errors_names_what_there_can_be():
    two, three = ([entry.text for entry in error_entries(count)] for count in (2, 3))
    assert three == ["missed foreground", "false foreground", "another class", "true outline"]
    assert two == [text for text in three if text != "another class"]


def test_more_classes_than_five_have_colours_of_their_own():
    assert len({tuple(class_color(number)) for number in range(1, 8)}) == 7
    assert np.array_equal(class_color(8), class_color(1))


def test_a_small_picture_keeps_thin_errors():
    truth = np.zeros((400, 300), int)
    seen = truth.copy()
    seen[200, 10:20] = 1  # one pixel high
    small = thumbnail(np.zeros((400, 300, 1), np.uint8), seen, truth, longest=100)
    assert (small.width, small.height) == (75, 100)
    with Image.open(io.BytesIO(small.errors)) as layer:
        colors = np.asarray(layer.convert("RGBA"))
    assert colors[50, 3].tolist() == [213, 94, 0, 178]
    assert colors[..., 3].astype(bool).sum() == 3
    with Image.open(io.BytesIO(small.image)) as base:
        assert base.size == (75, 100)
    truth, image, _ = scene(0)
    whole = thumbnail(image, truth, truth, longest=100)
    assert (whole.width, whole.height) == truth.shape[::-1]
    assert data_uri("image/jpeg", whole.image).startswith("data:image/jpeg;base64,/9j/")


def test_a_gallery_keeps_the_worst():
    truth, image, _ = scene(1)
    small = thumbnail(image, truth, truth, 100)
    gallery = Gallery(3)
    for name, badness in zip("abcdef", (0.1, 0.6, 0.3, 0.6, 0.0, 0.2), strict=True):
        gallery.add(name, badness, small)
    assert list(gallery.pictures()) == ["b", "d", "c"]


def test_each_image_has_a_picture_of_its_own(tmp_path):
    long = "x" * 249
    names = ("s:1", "s_1", "s/1", "s%3A1", "..", f"{long}a", f"{long}b", "a\udcff")
    evaluation = make_evaluation(tmp_path, names=names, resamples=0)
    files = {file.name for file in (tmp_path / "overlays").iterdir()}
    assert {"s%3A1.png", "s_1.png", "s%2F1.png", "s%253A1.png"} < files
    assert len(files) == len(names) and not [name for name in files if name.startswith(".")]
    assert [*evaluation.images][-1] == r"a\udcff" and read_evaluation(tmp_path) == evaluation
    seen = Page((tmp_path / "report.html").read_text())
    links = [a.get("href", "") for a in seen.named("a")]
    linked = {unquote(link).removeprefix("overlays/") for link in links if "overlays/" in link}
    assert linked == files
    compare(tmp_path, tmp_path, output=tmp_path / "c.html", resamples=0)
    pictures = [i["src"] for i in Page((tmp_path / "c.html").read_text()).named("img")]
    assert len(pictures) == 2 * len(names) and len(set(pictures)) == len(names)
