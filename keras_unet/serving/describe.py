"""`describe`: what a published version is and takes, read from its files without TensorFlow."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict

from keras_unet.errors import ExportError
from keras_unet.remote_path import RemotePath, as_path, fetched
from keras_unet.serving import wire
from keras_unet.serving.card import CARD, ServedCard, read_served_card
from keras_unet.serving.folders import numbered

WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
_FROZEN = ConfigDict(frozen=True, extra="forbid")
_LARGEST = 2**30  # bytes of a graph or of a record that is read


class TensorForm(BaseModel):
    """A signature's input or output; None is a size that may vary, shape None any rank."""

    model_config = _FROZEN

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


class SignatureForm(BaseModel):
    """What one signature takes and gives."""

    model_config = _FROZEN

    name: str
    inputs: tuple[TensorForm, ...]
    outputs: tuple[TensorForm, ...]


class Description(BaseModel):
    """A published version: its files, its signatures, its card (None: not of this package)."""

    model_config = _FROZEN

    folder: str
    bytes: int
    weight_bytes: int
    tensorflow: str
    signatures: tuple[SignatureForm, ...]
    warmup: dict[str, int]  # signature -> requests
    card: ServedCard | None


def describe(version: str | Path | RemotePath) -> Description:
    """Reads a version folder, e.g. "saved_models/unet/3"; a remote one is fetched first.

    Raises:
        ExportError: no such folder, no SavedModel in it, or one of its files is damaged.
        RemoteError: a remote one cannot be read.
    """
    place = as_path(version)
    if not place.is_dir():
        raise ExportError(f"{place}: no such folder; expected a version such as saved_models/x/3")
    if not (place / "saved_model.pb").is_file():
        inside = numbered(place)
        hint = f"; did you mean {inside[max(inside)]}?" if inside else ""
        raise ExportError(f"{place}: no saved_model.pb in it; expected a SavedModel{hint}")
    with fetched(place) as folder:
        return _described(folder).model_copy(update={"folder": str(place)})


def _described(folder: Path) -> Description:
    graph = _graph(folder / "saved_model.pb")
    if not (folder / "variables" / "variables.index").is_file():
        raise ExportError(f"{folder}: no variables/variables.index; the weights are missing")
    files = [p for p in folder.rglob("*") if p.is_file()]
    weights = [p for p in files if p.parent == folder / "variables"]
    return Description(
        folder=str(folder),
        bytes=sum(p.stat().st_size for p in files),
        weight_bytes=sum(p.stat().st_size for p in weights),
        tensorflow=graph.meta_info_def.tensorflow_version,
        signatures=tuple(
            SignatureForm(
                name=entry.key,
                inputs=_tensors(entry.value.inputs),
                outputs=_tensors(entry.value.outputs),
            )
            for entry in sorted(graph.signature_def, key=lambda entry: entry.key)
            if not entry.key.startswith("__")  # the loader's own
        ),
        warmup=_warmup(folder / WARMUP),
        card=read_served_card(folder) if (folder / CARD).exists() else None,
    )


def _graph(path: Path) -> wire.Any:
    if path.stat().st_size > _LARGEST:
        raise ExportError(f"{path}: {path.stat().st_size:,} bytes; expected at most {_LARGEST:,}")
    try:
        saved = wire.parse("SavedModel", path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path}: damaged, or no SavedModel ({error})") from error
    for graph in saved.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return graph
    raise ExportError(f'{path}: holds no graph with the tag "serve"; expected a SavedModel')


def _tensors(entries: wire.Any) -> tuple[TensorForm, ...]:
    return tuple(
        TensorForm(
            name=entry.key,
            dtype=wire.dtype_name(entry.value.dtype),
            shape=None
            if entry.value.shape.unknown_rank
            else tuple(None if dim.size < 0 else dim.size for dim in entry.value.shape.dim),
        )
        for entry in sorted(entries, key=lambda entry: entry.key)
    )


def _warmup(path: Path) -> dict[str, int]:
    """Requests by signature, in a TFRecord file of PredictionLog."""
    if not path.exists():
        return {}
    found: Counter[str] = Counter()
    with path.open("rb") as file:
        while start := file.read(12):  # length, its checksum
            length = struct.unpack("<Q", start[:8])[0] if len(start) == 12 else _LARGEST + 1
            rest = file.read(length + 4) if length <= _LARGEST else b""
            if len(rest) != length + 4:
                raise ExportError(f"{path}: truncated after {found.total()} records")
            try:
                log = wire.parse("PredictionLog", rest[:-4])
            except DecodeError as error:
                raise ExportError(f"{path}: damaged record ({error})") from error
            found[log.predict_log.request.model_spec.signature_name] += 1
    return dict(sorted(found.items()))
