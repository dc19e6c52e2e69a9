"""TF Serving's configuration files beside the models: `models.config`, batching, monitoring."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf import text_format

from keras_unet.disk import write_text
from keras_unet.errors import ExportError
from keras_unet.remote_path import RemotePath, as_path
from keras_unet.serving.folders import locked, numbered

MODELS = "models.config"
_HEAD = """\
# Which models TF Serving serves (--model_config_file); keras-unet export adds new ones.
# Paths are those that the server sees: absolute, here as in its container image; or gs://, s3://.
"""
_FILES = {
    "batching.config": """\
# How TF Serving joins requests (--enable_batching --batching_parameters_file): on a CPU a batch
# gains little, so few requests wait for each other, and briefly. `serving_default` fails for
# requests that were joined and differ in image size: leave batching off where sizes vary, or send
# encoded images to `segment_bytes`.
max_batch_size { value: 8 }
batch_timeout_micros { value: 2000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 }
""",
    "monitoring.config": """\
# Metrics for Prometheus on the REST port (--monitoring_config_file).
prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
""",
}


def write_configs(
    root: str | Path | RemotePath, base: str | None = None
) -> list[Path | RemotePath]:
    """Writes what is missing of the three files into `root`; `models.config` lists its models.

    Args:
        root: holds a folder for each model, which holds its versions.
        base: where the server sees `root`; None: as the models that are listed, or /models (a
            remote one: where it is).

    Returns:
        The files written or changed.

    Raises:
        ExportError: `models.config` cannot be parsed.
    """
    root = as_path(root)
    written = []
    with locked(root / ".lock") if isinstance(root, Path) else nullcontext():
        for name, text in _FILES.items():
            if not (root / name).exists():
                _write(root / name, text)
                written.append(root / name)
        written += _add_models(root, base)
    return written


def add_to_root(folder: Path | RemotePath) -> None:
    """Adds the model in `folder` to the `models.config` above, where there are such files."""
    root = folder.resolve().parent
    if any((root / name).exists() for name in (MODELS, *_FILES)):
        write_configs(root)


def pinned_versions(folder: Path | RemotePath) -> set[int]:
    """The versions that the `models.config` above names, by a policy or a label."""
    path = folder.resolve().parent / MODELS
    if not path.exists():
        return set()
    found = set()
    for config in _read(path).model_config_list.config:
        if PurePosixPath(config.base_path).name == folder.resolve().name:
            found |= set(config.model_version_policy.specific.versions)
            found |= set(config.version_labels.values())
    return found


def _add_models(root: Path | RemotePath, base: str | None) -> list[Path | RemotePath]:
    path = root / MODELS
    config = _read(path)
    listed = config.model_config_list.config
    known = {PurePosixPath(entry.base_path).name: entry.base_path for entry in listed}
    if base is None:
        own = [place for name, place in known.items() if name and (root / name).is_dir()]
        like = next(iter([*own, *known.values()]), None)
        default = "/models" if isinstance(root, Path) else str(root)
        base = default if like is None else _above(like)
    new = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in known and entry.is_dir() and numbered(entry)
    )
    if not new and path.exists():
        return []
    for name in new:
        listed.add(name=name, base_path=f"{base}/{name}", model_platform="tensorflow")
    head = "".join(line for line in _lines(path) if line.startswith("#")) or _HEAD
    config.model_config_list.SetInParent()
    _write(path, head + text_format.MessageToString(config))
    return [path]


def _above(base_path: str) -> str:
    """Its parent, as it is written: pathlib would make s3:/bucket of s3://bucket."""
    above, slash, _ = base_path.rstrip("/").rpartition("/")
    return above if slash else "."


def _write(path: Path | RemotePath, text: str) -> None:
    if isinstance(path, Path):
        write_text(path, text)
    else:
        path.write_text(text)


def _lines(path: Path | RemotePath) -> list[str]:
    return path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []


def _read(path: Path | RemotePath) -> Any:
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    try:
        return text_format.Parse("".join(_lines(path)), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{path}: is no model configuration of TF Serving ({error}); mend or delete it"
        ) from error
