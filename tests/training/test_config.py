"""Settings: TOML, --set and Python give one validated object; a bad key is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_unet.errors import ConfigError
from keras_unet.settings import describe, to_tree
from keras_unet.training.config import TrainConfig, load_config, make_config

DATA = {"images": "cells"}


def test_defaults_are_the_papers_loss():
    config = load_config(data=DATA)
    assert (config.loss.w0, config.loss.sigma, config.loss.class_weights) == (10.0, 5.0, "balanced")
    assert config.model.padding == "valid"
    assert config.augment == "paper"


def test_a_setting_overrides_the_file_which_overrides_the_default(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text('batch_size = 3\nseed = 5\n[data]\nimages = "a"\n[model]\nfilters = 8\n')
    config = load_config(file, ["seed=7", "model.depth=3", "data.label_kind=instances"])
    assert (config.batch_size, config.seed, config.model.filters, config.model.depth) == (
        3,
        7,
        8,
        3,
    )
    assert config.data.images == Path("a")
    assert config.data.rule.kind == "instances"


def test_values_are_toml_or_plain_text():
    settings = [
        "loss.class_weights=[1, 2.5]",
        "steps=10",
        "model.normalization=none",
        "name=my run",
    ]
    config = load_config(None, settings, data=DATA)
    assert config.loss.class_weights == (1.0, 2.5)
    assert (config.time_limit, config.model.normalization) == (None, "none")
    assert config.name == "my run"


def test_a_run_always_ends():
    limits = [load_config(None, s, data=DATA).time_limit for s in ([], ["minutes=3"], ["steps=9"])]
    assert limits == [20.0, 3.0, None]


def test_the_written_configuration_is_read_back(tmp_path):
    tomli_w = pytest.importorskip("tomli_w")
    config = load_config(
        None, ["data.label_values=[0, 128, 255]", "tile=412", "steps=3"], data=DATA
    )
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps(to_tree(config)))
    assert load_config(file) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["minuets=3"], "minuets: unknown key"),
        (["model.filtres=3"], "model.filtres: unknown key; did you mean model.filters?"),
        (["filters=3"], "filters: unknown key; did you mean model.filters?"),
        (["xyz=3"], r"^--set: 1 bad .*\n  xyz: unknown key; see"),
        (["batch_size=0"], "batch_size.*greater than or equal to 1, got 0"),
        (["seed", "x"], "expected key=value"),
        (["minutes=0"], "minutes.*greater than 0"),
        (["minutes=inf"], "minutes.*finite"),
        (["learning_rate=nan"], "learning_rate"),
        (["tile=573"], "573.*572 and 588"),
        (["data.label_kind=objects"], "data.label_kind.*'instances'.*got 'objects'"),
        (["data.num_classes=1"], "num_classes is 1"),
        (["loss.class_weights=[1, -3]"], "class_weights"),
        (["loss.sigma=inf"], "loss.sigma"),
        (["name=../../evil"], "name.*match"),
        (["data.validation_labels=x"], "validation_labels needs validation"),
        (["loss=3", "loss.w0=1"], "'loss' is a value, not a section"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, settings, data=DATA)


def test_every_bad_setting_is_named_at_once():
    with pytest.raises(
        ConfigError, match=r"2 bad setting(?s:.*)data.images: must be(?s:.*)epochs: unknown"
    ):
        make_config({"epochs": 3, "data": {}})


def test_a_file_that_is_no_toml(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text("minutes: 3")
    with pytest.raises(ConfigError, match=r"train.toml: cannot be read as TOML"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"absent.toml"):
        load_config(tmp_path / "absent.toml")


def test_every_setting_is_described():
    text = describe(TrainConfig)
    for key in ("data.images", "model.filters", "loss.w0", "minutes", "data.label_kind"):
        assert f"\n{key} " in f"\n{text}"
    assert "(must be given)" in text


def test_numbers_and_dates_can_be_names():
    config = load_config(None, ["name=2026-11-01", "data.images=2024"])
    assert (config.name, config.data.images) == ("2026-11-01", Path("2024"))
    assert load_config(None, ["name=123"], data=DATA).name == "123"


def test_data_must_be_a_section(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text('data = "cells"')
    with pytest.raises(ConfigError, match=r"train.toml: data: expected a section"):
        load_config(file)


def test_a_file_as_windows_writes_it(tmp_path):
    file = tmp_path / "train.toml"
    text = "steps = 7\r\n[data]\r\nimages = 'd'\r\n"
    file.write_bytes(text.encode("utf-8-sig"))
    assert load_config(file).steps == 7
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"train.toml: is UTF-16; expected text in UTF-8"):
        load_config(file)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"augment": "papr"}, "augment: unknown augmentation preset 'papr'.*did you mean paper"),
        (
            {"augment_options": {"elastic_sgima": 5}},
            "augment_options.elastic_sgima: unknown key; did you mean .*.elastic_sigma",
        ),
        ({"augment_options": {"noise": [-1, 1]}}, "augment_options.noise must not be negative"),
        ({"augment_options": {"flip_vertical": 2}}, "augment_options.flip_vertical: .*, got 2"),
    ],
)
def test_an_augmentation_that_does_not_exist_is_refused_at_once(tree, message):
    with pytest.raises(ConfigError, match=message):
        make_config({"data": DATA, **tree})
