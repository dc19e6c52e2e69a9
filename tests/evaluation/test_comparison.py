from __future__ import annotations

import json

import numpy as np
import pytest
from made_evaluation import NAMES, make_evaluation
from PIL import Image

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import Comparison, compare


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, noise in (("good", 0.4), ("bad", 1.2)):
        make_evaluation(folder / name, name=name, noise=noise)
    return folder


def by_path(comparison):
    return {one.score: one for one in comparison.differences}


def test_differences_are_b_minus_a_on_the_same_images(runs, tmp_path):
    found = compare(runs / "bad", runs / "good", output=tmp_path / "c.html", resamples=300)
    bad, good = (json.loads((runs / n / "evaluation.json").read_text()) for n in ("bad", "good"))
    scores = by_path(found)
    for path, sign in ((("mean_iou",), 1), (("pixel_error",), -1)):
        one = scores[path]
        assert (one.a, one.b) == (bad["total"][path[0]], good["total"][path[0]])
        assert one.difference == pytest.approx(one.b - one.a, abs=2e-6)
        assert sign * one.interval[0] > 0 and sign * one.interval[1] > 0
        assert (one.wins, one.losses, one.ties) == (len(NAMES), 0, 0)
    assert scores[("objects", "merged")].interval is None
    assert scores[("wrong_near_outline",)].wins == 0
    assert Comparison.model_validate_json((tmp_path / "c.json").read_text()) == found
    page = (tmp_path / "c.html").read_text()
    assert page.count("data:image/jpeg") == 2 * len(NAMES)
    assert f"{scores[('mean_iou',)].difference:+.4f}" in page


def test_pairing_makes_the_interval_of_the_difference_narrow(runs, tmp_path):
    """An evaluation a hair better on every image: clearly so, however much images differ."""
    text = json.loads((runs / "good" / "evaluation.json").read_text())
    for counts in text["counts"].values():
        row = counts["confusion"][1]
        row[0], row[1] = row[0] - 2, row[1] + 2
    (tmp_path / "evaluation.json").write_text(json.dumps(text))
    one = by_path(compare(runs / "good", tmp_path))[("pixel_error",)]
    spread = np.ptp(text["intervals"]["pixel_error"])
    assert one.difference < 0 and one.interval[1] < 0
    assert np.ptp(one.interval) < spread / 20


def test_the_same_twice_is_no_difference(runs):
    for one in compare(runs / "good", runs / "good").differences:
        assert one.difference in (0, None)
        assert one.interval in ((0, 0), None)
        assert one.wins == one.losses == 0


def test_other_images_are_named_unless_the_common_ones_are_asked_for(runs, tmp_path):
    make_evaluation(tmp_path / "d", names=(*NAMES[1:], "new"), first=1)
    with pytest.raises(DataError) as error:
        compare(runs / "good", tmp_path / "d")
    assert "good has image 0" in str(error.value) and "d has new" in str(error.value)
    assert "4 that both have (--common)" in str(error.value)
    found = compare(runs / "good", tmp_path / "d", common=True, output=tmp_path / "c.html")
    assert found.images == NAMES[1:]
    assert set(found.left_out) == {"image 0", "new"}
    assert "image 0, new" in (tmp_path / "c.html").read_text()
    make_evaluation(tmp_path / "e", names=("x", "y"))
    with pytest.raises(DataError, match="no image in common.*image 0.*x, y"):
        compare(runs / "good", tmp_path / "e", common=True)


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    make_evaluation(tmp_path / "labels", first=1)  # equal names, other scenes
    with pytest.raises(DataError, match="labels of image 0, image 1"):
        compare(runs / "good", tmp_path / "labels")
    make_evaluation(tmp_path / "classes", classes=("background", "nucleus"))
    with pytest.raises(DataError, match="classes differ: background, cell and background, nucleus"):
        compare(runs / "good", tmp_path / "classes")
    make_evaluation(tmp_path / "tolerance", tolerance=3)
    with pytest.raises(DataError, match=r"another tolerance: 2\.0 and 3\.0"):
        compare(runs / "good", tmp_path / "tolerance")


def test_no_evaluation_there_or_an_old_one(runs, tmp_path):
    with pytest.raises(DataError, match=r"holds no evaluation\.json"):
        compare(runs / "good", tmp_path)
    (tmp_path / "evaluation.json").write_text('{"model": "x", "total": {}, "images": {}}')
    with pytest.raises(DataError, match="not an evaluation of this version.*make it anew"):
        compare(tmp_path, runs / "good")


def test_scores_that_only_one_has_are_left_out(runs, tmp_path):
    make_evaluation(tmp_path / "isbi", isbi=True, objects=None)
    found = by_path(compare(runs / "good", tmp_path / "isbi"))
    assert ("mean_iou",) in found
    assert not [path for path in found if path[0] in ("isbi", "objects")]


def test_an_evaluation_without_areas_of_objects_is_compared_too(runs, tmp_path):
    """Evaluations of 0.3 have none."""
    text = json.loads((runs / "good" / "evaluation.json").read_text())
    for counts in text["counts"].values():
        del counts["object_areas"]
    del text["advice"]
    (tmp_path / "evaluation.json").write_text(json.dumps(text))
    assert ("objects", "false_area") in by_path(compare(runs / "bad", runs / "good", resamples=0))
    for pair in ((runs / "bad", tmp_path), (tmp_path, runs / "bad")):
        scores = by_path(compare(*pair, resamples=0))
        assert ("objects", "f1") in scores and ("objects", "false_area") not in scores


def test_pictures_may_be_absent(runs, tmp_path):
    for name in ("good", "bad"):
        text = (runs / name / "evaluation.json").read_text()
        (tmp_path / f"{name}.json").write_text(text)
    compare(tmp_path / "good.json", tmp_path / "bad.json", output=tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "No overlays were found" in page and "<img" not in page


def test_a_damaged_or_huge_picture_is_left_out(runs, tmp_path, monkeypatch):
    make_evaluation(tmp_path / "d")
    (tmp_path / "d" / "overlays" / f"{NAMES[0]}.png").write_bytes(b"no picture")
    compare(tmp_path / "d", runs / "good", output=tmp_path / "c.html", resamples=0)
    assert (tmp_path / "c.html").read_text().count("data:image/jpeg") == 2 * (len(NAMES) - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    compare(tmp_path / "d", runs / "good", output=tmp_path / "c.html", resamples=0)
    assert "No overlays were found" in (tmp_path / "c.html").read_text()


def test_what_to_write_and_draw_is_checked_first(runs, tmp_path):
    for output in (tmp_path, tmp_path / "c.json"):
        with pytest.raises(ConfigError, match="expected the HTML page"):
            compare(runs / "good", runs / "bad", output=output)
    assert not list(tmp_path.iterdir())
    for given in ({"confidence": 1.5}, {"resamples": -1}):
        with pytest.raises(ConfigError, match="confidence must be between 0 and 1"):
            compare(runs / "good", runs / "bad", **given)


def test_an_evaluation_of_another_format_is_refused(runs, tmp_path):
    text = json.loads((runs / "good" / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps({**text, "format": 3}))
    with pytest.raises(DataError, match=r"not an evaluation of this version \(format"):
        compare(tmp_path, runs / "good")
