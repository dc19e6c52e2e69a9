"""Places such as gs://bucket: told from local paths, never folded into a folder "gs:"."""

from __future__ import annotations

import importlib
import re
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_unet.cli.app import app
from keras_unet.errors import ConfigError, DataError, RemoteError
from keras_unet.remote_path import RemotePath, as_path, fetched, local_path, remote_uri
from keras_unet.training.config import load_config

SCHEMES = ("gs", "s3", "s3a", "az", "abfss", "hdfs", "https", "memory", "hf", "x-y+z.1")


@pytest.fixture(params=["ram", "memory", "local"])  # TensorFlow's; fsspec's, and with real folders
def bucket(request, tmp_path):
    if request.param != "ram":
        pytest.importorskip("fsspec")
    if request.param == "local":
        return RemotePath(f"local://{tmp_path}/bucket/models")
    return RemotePath(f"{request.param}://{uuid.uuid4().hex}/models")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_uri_is_one_as_text_and_as_a_path(scheme):
    uri = f"{scheme}://bucket/models/unet"
    assert str(Path(uri)) == f"{scheme}:/bucket/models/unet"  # what pathlib makes of it
    for given in (uri, Path(uri), f"{uri}/", f"{scheme}:/bucket/models/unet"):
        assert str(as_path(given)) == uri
    assert str(as_path(uri).parent / "other" / Path("assets", "x")) == (
        f"{scheme}://bucket/models/other/assets/x"
    )
    with pytest.raises(ConfigError, match=f"the path is {re.escape(uri)}; expected a path on"):
        local_path(Path(uri))


def test_case_and_doubled_slashes_are_kept():
    assert str(as_path("S3://Bucket/a//b")) == "S3://Bucket/a//b"
    assert str(as_path("hdfs:///user/x")) == "hdfs:///user/x"
    assert as_path("gs://bucket").parent == as_path("gs://bucket")


@pytest.mark.parametrize(
    "path", ["models", "./a:/b", "C:/models", "C:\\models", "/gs:/x", "a b:/c", "1s:/x", "gs:x", ""]
)
def test_other_paths_are_local(path):
    assert remote_uri(path) is None
    assert as_path(path) == Path(path) == local_path(path)


def test_file_uris_are_local():
    for uri in ("file:///tmp/my%20models", "file:/tmp/my models", "file://localhost/tmp/my models"):
        assert as_path(uri) == Path("/tmp/my models")


def test_folders_and_files_are_kept_listed_and_deleted(bucket, tmp_path):
    assert not bucket.exists() and not bucket.is_dir()
    (tmp_path / "made" / "variables").mkdir(parents=True)
    (tmp_path / "made" / "a.txt").write_bytes(b"\0\xff")
    (tmp_path / "made" / "variables" / "b").write_text("weights")
    (tmp_path / "made" / "variables.extra").mkdir()
    (tmp_path / "made" / "variables.extra" / "b").write_text("more")
    (bucket / "unet/1").put(tmp_path / "made")
    assert bucket.is_dir() and not bucket.is_file()
    assert [one.name for one in (bucket / "unet").iterdir()] == ["1"]
    assert sorted((bucket / "unet").files()) == [
        "1/a.txt",
        "1/variables.extra/b",
        "1/variables/b",
    ]
    assert (bucket / "unet/1/a.txt").is_file() and not (bucket / "unet/1/a.txt").is_dir()
    (bucket / "unet/1/a.txt").move(bucket / "unet/2/c/a.txt")
    assert (bucket / "unet/2/c/a.txt").read_bytes() == b"\0\xff"
    assert not (bucket / "unet/1/a.txt").exists()
    (bucket / "models.config").write_text("a longer text, which is replaced")
    (bucket / "models.config").write_text("zwölf")
    assert sorted(one.name for one in bucket.iterdir()) == ["models.config", "unet"]
    assert (bucket / "models.config").read_text() == "zwölf"
    with fetched(bucket / "unet") as local:
        assert local.name == "unet"
        assert (local / "1/variables/b").read_text() == "weights"
        assert {p.name for p in local.iterdir()} == {"1", "2"}
        with pytest.raises(DataError, match=f"{bucket}/unet/9: not here"), fetched(bucket / "unet"):
            raise DataError(f"{bucket}/unet/9: not here")
    assert not local.exists()
    (bucket / "unet/1").delete()
    (bucket / "unet/1").delete()  # nothing there
    (bucket / "models.config").delete()
    assert (bucket / "unet").files() == ["2/c/a.txt"]
    with pytest.raises(RemoteError, match=f"{bucket}/absent: .*"):
        (bucket / "absent").read_bytes()


def test_errors_name_the_place_and_not_its_copy(bucket, tmp_path):
    (bucket / "x").write_text("no model")
    with pytest.raises(DataError) as told, fetched(bucket / "x") as local:
        raise DataError(f"{local}: damaged")
    assert str(told.value) == f"{bucket}/x: damaged"


def test_a_scheme_without_a_library_is_refused():
    with pytest.raises(RemoteError, match=r"nosuch://b: nothing is installed here that reads"):
        RemotePath("nosuch://b").exists()
    with pytest.raises(RemoteError, match=r"hdfs://|s3://"):  # no library, or no such host
        RemotePath("hdfs://nowhere.invalid/x").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "gs://b/cells"],
        ["train", "cells", "--labels", "s3://b/x"],
        ["train", "cells", "--set", "output=gs://b/runs"],
        ["plan", "gs://b/cells"],
        ["predict", "run", "images", "--output", "gs://b/masks"],
        ["predict", "gs://b/run", "images"],
        ["evaluate", "run", "gs://b/cells"],
        ["objects", "az://b/masks"],
        ["convert", "run", "images", "--output", "s3://b/x"],
        ["compare", "a", "b", "--output", "gs://b/x.html"],
        ["export", "run", "nosuch://b/unet"],
        ["rollback", "nosuch://b/unet"],
        ["info", "nosuch://b/unet/1"],
        ["serve", "nosuch://b/models"],
        ["lineage", "nosuch://b/models/unet/1"],
    ],
    ids=" ".join,
)
def test_every_command_keeps_away_from_a_local_folder_of_that_name(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 1
    text = str(found.exception)
    uri = next(a.rpartition("=")[2] for a in arguments if "://" in a)
    assert f"{uri}: nothing is installed here" in text or f"{uri}; expected a path" in text
    assert list(tmp_path.iterdir()) == []


def test_settings_in_a_file_are_local_paths(tmp_path):
    (tmp_path / "run.toml").write_text('output = "gs://b/runs"\n[data]\nimages = "s3://b/cells"\n')
    with pytest.raises(ConfigError) as told:
        load_config(tmp_path / "run.toml")
    assert "output: the path is gs://b/runs; expected" in str(told.value)
    assert "data.images: the path is s3://b/cells; expected" in str(told.value)


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("keras_unet.data.pairs", "find_pairs", ["URI"]),
        ("keras_unet.data.pairs", "find_pairs", ["cells", "URI"]),
        ("keras_unet.data.synthetic", "write_dataset", ["URI"]),
        ("keras_unet.inference.inputs", "find_inputs", ["URI"]),
        ("keras_unet.inference.files.file_predictor", "predict_files", ["run", "images", "URI"]),
        ("keras_unet.models.keras_file", "save_model", [None, "URI"]),
        ("keras_unet.serving.formats", "convert", [None, [[[0.0]]], "URI", []]),
        ("keras_unet.serving.client", "segment_files", [None, "cells", "images", "URI"]),
    ],
)
def test_functions_that_read_and_write_here_take_no_uri(
    module, name, arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for uri in ("s3://b/x.keras", Path("s3://b/x.keras")):
        given = [uri if one == "URI" else one for one in arguments]
        with pytest.raises(ConfigError, match="the path is s3://b/x.keras; expected a path on"):
            getattr(importlib.import_module(module), name)(*given)
    assert list(tmp_path.iterdir()) == []
