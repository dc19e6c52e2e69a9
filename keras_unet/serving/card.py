"""Card, notes and description of a published version, read from its files without TensorFlow.

`assets/model_card.json` is of the model: what it is, for people and programs. The notes in
`assets.extra/` are of this copy of it: which version was gone back to, which pipeline pushed it.
`describe` reads these, and the signatures from `saved_model.pb`.
"""

from __future__ import annotations

import struct
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeVar

from google.protobuf.message import DecodeError
from pydantic import BaseModel, Field, ValidationError

from keras_unet._version import __version__
from keras_unet.disk import shown_size
from keras_unet.errors import ExportError
from keras_unet.models.model_card import ModelCard
from keras_unet.pictures import COLORS, class_color
from keras_unet.remote_path import RemotePath, as_path, fetched
from keras_unet.serving.folders import SAVED_MODEL, WARMUP, numbered
from keras_unet.serving.protocol.messages import message_type
from keras_unet.serving.protocol.objects import DECODING, OBJECTS
from keras_unet.serving.protocol.tensors import dtype_name
from keras_unet.settings import Frozen

WeightPrecision = Literal["float32", "bfloat16", "float16"]  # of the stored weights
CARD = Path("assets", "model_card.json")
ROLLBACK = Path("assets.extra", "rollback.json")
LINEAGE = Path("assets.extra", "lineage.json")
_LARGEST = 2**30  # bytes of a graph or of a record that is read


class CardFields(Frozen):
    """What training cannot know and whoever publishes may state."""

    description: str | None = None
    authors: tuple[str, ...] = ()
    licence: str | None = None  # of the weights, an SPDX identifier such as "CC-BY-4.0"
    data_licence: str | None = None  # of the images it was trained on
    citation: str | None = None
    pixel_size: float | None = Field(default=None, gt=0)  # micrometres, of the training images

    def completed(self, model: ModelCard) -> CardFields:
        """What isn't stated as the model itself says it, so that a licence isn't left behind."""
        said: dict[str, Any] = {"pixel_size": model.pixel_size}
        if (release := model.release) is not None:
            said |= {
                "description": f"For {release.purpose}. Not for {release.not_for}.",
                "licence": release.licence,
                "data_licence": release.data_licence,
                "citation": release.citation,
            }
        missing = {key: value for key, value in said.items() if getattr(self, key) is None}
        return self.model_copy(update=missing)


class ServedClass(Frozen):
    """One class: its name, its value in a mask, its colour in a picture."""

    name: str
    value: int
    colour: str


class ServedCard(Frozen):
    """A published model: how it was exported, what was stated of it, and the trained model's card.

    `model` holds normalisation, label values, training configuration, metrics and data check.
    """

    format: int = 1
    name: str
    classes: tuple[ServedClass, ...]
    fields: CardFields
    precision: WeightPrecision
    tile: int  # largest input tile, pixels a side
    max_pixels: int  # of one image
    exported: str
    exported_by: str
    model: ModelCard

    def lines(self) -> list[str]:
        """What it is and who made it, its classes and its training, for a person."""
        fields = self.fields
        size = "unknown" if fields.pixel_size is None else f"{fields.pixel_size:g} µm"
        return [
            f"Model {self.name}, exported {self.exported} by {self.exported_by}",
            *([f"  {fields.description}"] if fields.description else []),
            *([f"  authors       {', '.join(fields.authors)}"] if fields.authors else []),
            *([f"  citation      {fields.citation}"] if fields.citation else []),
            f"  licence       {fields.licence or 'not stated'}; "
            f"training data {fields.data_licence or 'not stated'}",
            "  classes       "
            + ", ".join(f"{c.name} (mask {c.value}, {c.colour})" for c in self.classes),
            f"  images        {self.model.image_dtype}, pixel size {size}; at most "
            f"{self.max_pixels:,} pixels, in tiles of at most {self.tile}",
            f"  weights       {self.precision}",
            *self.model.lines(),
        ]


def served_card(
    name: str,
    model: ModelCard,
    fields: CardFields,
    *,
    values: tuple[int, ...],
    precision: WeightPrecision,
    tile: int,
    max_pixels: int,
) -> ServedCard:
    """Puts a card together; `values` are a mask's, class by class."""
    classes = tuple(
        ServedClass(name=title, value=value, colour=_colour(i))
        for i, (title, value) in enumerate(zip(model.classes, values, strict=True))
    )
    return ServedCard(
        name=name,
        classes=classes,
        fields=fields.completed(model),
        precision=precision,
        tile=tile,
        max_pixels=max_pixels,
        exported=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        exported_by=f"keras_unet {__version__}",
        model=model,
    )


def write_card(card: ServedCard, folder: Path) -> None:
    """Writes it into the SavedModel in `folder`."""
    path = folder / CARD
    path.parent.mkdir(exist_ok=True)
    path.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _colour(number: int) -> str:
    """A class's colour in overlays, as CSS has it."""
    red, green, blue = (class_color(number) if number else COLORS[0]).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def read_served_card(folder: str | Path) -> ServedCard:
    """The card of a published version.

    Raises:
        ExportError: there is none, or it is damaged.
    """
    path = Path(folder) / CARD
    try:
        return ServedCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be read ({error.strerror}); expected a model that "
            "keras-unet export published"
        ) from error
    except ValidationError as error:
        raise ExportError(f"{path}: is no model card of keras_unet ({error})") from error


Note = TypeVar("Note", bound=BaseModel)


class Rollback(Frozen):
    """That a version is a copy: of which one, by `keras-unet rollback`."""

    of: int = Field(ge=0)


class Origin(Frozen):
    """What a version remembers of the pipeline that pushed it.

    metadata: the store, a SQLite file; "" where it is none. model, uri: the Model artifact's number
    and place. fingerprint: of the SavedModel.
    """

    format: int = 1
    metadata: str
    model: int
    uri: str
    fingerprint: str

    def as_file(self) -> dict[str, str]:
        """{name: text} for `publish_bundle`, which keeps it in the version."""
        return {LINEAGE.name: self.model_dump_json(indent=1) + "\n"}


def read_rollback(version: Path | RemotePath) -> Rollback | None:
    """None: it is no copy.

    Raises:
        ExportError: the note is damaged.
    """
    return _read_note(version, ROLLBACK, Rollback, "is no record of keras-unet rollback")


def read_origin(version: Path | RemotePath) -> Origin | None:
    """None: no pipeline pushed it.

    Raises:
        ExportError: the note is damaged.
    """
    return _read_note(version, LINEAGE, Origin, "is no lineage of keras_unet")


def write_rollback(version: Path, note: Rollback) -> None:
    path = version / ROLLBACK
    path.parent.mkdir(exist_ok=True)
    path.write_text(note.model_dump_json() + "\n", encoding="utf-8")


def _read_note(
    version: Path | RemotePath, name: Path, kind: type[Note], is_none: str
) -> Note | None:
    path = version / name
    if not path.exists():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ExportError(
            f"{path}: {is_none} ({error}); mend it, or delete it if nothing of it is needed"
        ) from error


class TensorForm(Frozen):
    """A signature's input or output; None is a size that may vary, shape None any rank."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype} of any shape"
        sizes = ", ".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.name}: {self.dtype} [{sizes}]"


class SignatureForm(Frozen):
    """What one signature takes and gives."""

    name: str
    inputs: tuple[TensorForm, ...]
    outputs: tuple[TensorForm, ...]


class Description(Frozen):
    """A published version: its files, its signatures, its card (None: not of this package)."""

    folder: str
    bytes: int
    weight_bytes: int
    tensorflow: str
    signatures: tuple[SignatureForm, ...]
    warmup: dict[str, int]  # signature -> requests
    card: ServedCard | None

    def to_text(self) -> str:
        """Its signatures, and its card with the training of its model, for a person."""
        lines = [
            f"{self.folder}: {shown_size(self.bytes)}, {shown_size(self.weight_bytes)} of them "
            f"weights; TensorFlow {self.tensorflow}",
            "",
            "Signatures",
        ]
        for signature in self.signatures:
            taken, given = (
                ", ".join(map(str, tensors)) for tensors in (signature.inputs, signature.outputs)
            )
            count = self.warmup.get(signature.name, 0)
            lines.append(f"  {signature.name}({taken})")
            lines.append(f"    -> {given}; {count} warm-up request{'s' * (count != 1)}")
        if self.card is None:
            return "\n".join([*lines, "", "No model card: not exported by keras_unet."])
        return "\n".join([*lines, "", *self.card.lines(), *self._who_finds(self.card.model)])

    def _who_finds(self, card: ModelCard) -> list[str]:
        """Where the objects of an instance model come from: no graph can find them."""
        if card.decoding is None:
            return []
        if all(signature.name != DECODING for signature in self.signatures):
            return ["  objects from  no server: an older keras_unet published it; publish it again"]
        return [
            f"  objects from  keras-unet serve ({OBJECTS}) and keras_unet.serving.Client; "
            "TensorFlow Serving alone gives masks and probabilities"
        ]


def describe(version: str | Path | RemotePath) -> Description:
    """Reads a version folder, e.g. "saved_models/unet/3"; a remote one is fetched first.

    Raises:
        ExportError: no such folder, no SavedModel in it, or one of its files is damaged.
        RemoteError: a remote one cannot be read.
    """
    place = as_path(version)
    if not place.is_dir():
        raise ExportError(f"{place}: no such folder; expected a version such as saved_models/x/3")
    if not (place / SAVED_MODEL).is_file():
        inside = numbered(place)
        hint = f"; did you mean {inside[max(inside)]}?" if inside else ""
        raise ExportError(f"{place}: no {SAVED_MODEL} in it; expected a SavedModel{hint}")
    with fetched(place) as folder:
        return _described(folder).model_copy(update={"folder": str(place)})


def _described(folder: Path) -> Description:
    graph = _graph(folder / SAVED_MODEL)
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


def _graph(path: Path) -> Any:
    if path.stat().st_size > _LARGEST:
        raise ExportError(f"{path}: {path.stat().st_size:,} bytes; expected at most {_LARGEST:,}")
    try:
        saved = message_type("SavedModel").FromString(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path}: damaged, or no SavedModel ({error})") from error
    for graph in saved.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return graph
    raise ExportError(f'{path}: holds no graph with the tag "serve"; expected a SavedModel')


def _tensors(entries: Any) -> tuple[TensorForm, ...]:
    return tuple(
        TensorForm(
            name=entry.key,
            dtype=dtype_name(entry.value.dtype),
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
                log = message_type("PredictionLog").FromString(rest[:-4])
            except DecodeError as error:
                raise ExportError(f"{path}: damaged record ({error})") from error
            found[log.predict_log.request.model_spec.signature_name] += 1
    return dict(sorted(found.items()))
