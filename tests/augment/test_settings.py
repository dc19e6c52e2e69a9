"""Settings refuse what makes no sense, and say what was found and what was expected."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from keras_unet.augment import PRESETS, AugmentSettings, make_settings, preset_settings
from keras_unet.errors import ConfigError

BAD = [
    ({"elastic": 3}, "augmentation: elastic: unknown; expected one of flip_vertical"),
    ({"flip_vertical": 1.5}, r"flip_vertical.*less than or equal to 1, got 1.5"),
    ({"rotate": (10, -10)}, r"rotate is a range \(low, high\).*\(10.0, -10.0\)"),
    ({"rotate": "left"}, "rotate"),
    ({"scale": (0.0, 2.0)}, "scale must be above 0"),
    ({"noise": (-1.0, 1.0)}, "noise must not be negative"),
    ({"low_resolution": (0.5, 1.5)}, "at most 1"),
    ({"shear": (-85, 0)}, "shear is in degrees"),
    ({"elastic_sigma": float("nan")}, "elastic_sigma"),
    ({"elastic_grid": (1, 3)}, "elastic_grid"),
    ({"interpolation": "cubic"}, "interpolation.*'bilinear' or 'bicubic'"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda v: str(v)[:20])
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(options)


def test_settings_are_frozen_plain_and_complete():
    for name in PRESETS:
        settings = preset_settings(name)
        assert AugmentSettings.model_validate_json(settings.model_dump_json()) == settings
        with pytest.raises(ValidationError):
            settings.elastic_sigma = 3.0
    assert make_settings(preset_settings("paper"), elastic_sigma=4).elastic_sigma == 4
    assert make_settings(preset_settings("paper"), elastic_sigma=4).elastic_grid == (3, 3)


def test_presets_say_what_the_papers_say():
    paper, nnunet = preset_settings("paper"), preset_settings("nnunet")
    assert (paper.elastic_sigma, paper.elastic_grid) == (10, (3, 3))
    assert (nnunet.rotate_p, nnunet.scale_p, nnunet.scale) == (0.2, 0.2, (0.7, 1.4))
    assert (nnunet.low_resolution_p, nnunet.gamma, nnunet.multiply) == (
        0.25,
        (0.7, 1.5),
        (0.75, 1.25),
    )
    assert nnunet.gamma_inverted_p > 0 and nnunet.elastic_sigma == 0
    assert not preset_settings("flips").changes_intensity and paper.changes_intensity
