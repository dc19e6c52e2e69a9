"""TF Serving's configuration files: parsed by its own protocol, kept up to date, never spoilt."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from keras_unet.errors import ExportError
from keras_unet.serving.folders import add_to_root, pinned_versions, write_configs

ROOT = Path(__file__).parents[2] / "saved_models"


def models(root):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((root / "models.config").read_text(), config)
    return {entry.name: entry for entry in config.model_config_list.config}


def test_all_models_are_listed_once(tmp_path):
    for version in ("unet/1", "cells/7", "empty/x"):
        (tmp_path / version).mkdir(parents=True)
    names = {"models.config", "batching.config", "monitoring.config"}
    assert {p.name for p in write_configs(tmp_path)} == names
    assert {n: e.base_path for n, e in models(tmp_path).items()} == {
        "unet": "/models/unet",
        "cells": "/models/cells",
    }
    assert write_configs(tmp_path) == []
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {*names, ".lock"}


def test_what_a_person_wrote_stays(tmp_path):
    (tmp_path / "unet" / "1").mkdir(parents=True)
    (tmp_path / "new" / "1").mkdir(parents=True)
    (tmp_path / "models.config").write_text(
        "# ours\nmodel_config_list { config { name: 'u' base_path: '/srv/m/unet' "
        "model_platform: 'tensorflow' model_version_policy { specific { versions: 3 } } "
        "version_labels { key: 'stable' value: 2 } } }\n"
    )
    assert pinned_versions(tmp_path / "unet") == {2, 3}
    assert pinned_versions(tmp_path / "new") == set()
    add_to_root(tmp_path / "new")
    found = models(tmp_path)
    assert found["u"].model_version_policy.specific.versions == [3]
    assert dict(found["u"].version_labels) == {"stable": 2}
    assert found["new"].base_path == "/srv/m/new"
    assert "unet" not in found
    assert (tmp_path / "models.config").read_text().startswith("# ours\n")


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("s3://bucket/models/demo", "s3://bucket/models/new"),
        ("gs://bucket/demo/", "gs://bucket/new"),
        ("/demo", "/new"),
        ("demo", "./new"),
    ],
)
def test_a_place_elsewhere_stays_as_it_is_written(tmp_path, base, expected):
    (tmp_path / "new" / "0001").mkdir(parents=True)
    text = f"model_config_list {{ config {{ name: 'demo' base_path: '{base}' }} }}\n"
    (tmp_path / "models.config").write_text(text)
    add_to_root(tmp_path / "new")
    found = models(tmp_path)
    assert (found["demo"].base_path, found["new"].base_path) == (base, expected)
    assert pinned_versions(tmp_path / "demo") == set()


def test_a_new_model_is_where_those_of_its_folder_are(tmp_path):
    for version in ("unet/1", "new/1"):
        (tmp_path / version).mkdir(parents=True)
    places = ("s3://bucket/models/demo", "/srv/m/unet")
    entries = (f"config {{ name: 'm{k}' base_path: '{p}' }}" for k, p in enumerate(places))
    (tmp_path / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    add_to_root(tmp_path / "new")
    assert models(tmp_path)["new"].base_path == "/srv/m/new"


def test_a_folder_without_such_files_is_left_alone(tmp_path):
    (tmp_path / "unet" / "1").mkdir(parents=True)
    add_to_root(tmp_path / "unet")
    assert [p.name for p in tmp_path.iterdir()] == ["unet"]


def test_a_damaged_file_is_named_and_kept(tmp_path):
    (tmp_path / "unet" / "1").mkdir(parents=True)
    (tmp_path / "models.config").write_text("model_config_list { confg {} }")
    with pytest.raises(ExportError, match=r"models\.config: is no model configuration"):
        write_configs(tmp_path)
    assert (tmp_path / "models.config").read_text() == "model_config_list { confg {} }"


def test_the_files_of_this_project_are_those_that_are_written(tmp_path):
    write_configs(tmp_path)
    for name in ("batching.config", "monitoring.config"):
        assert (ROOT / name).read_text() == (tmp_path / name).read_text()
