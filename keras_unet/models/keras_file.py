"""File `.keras` of a trained network: the network and what must travel with it.

A `.keras` file is a zip archive. The card is one more member of it, so that
`keras.saving.load_model` still opens the file (after `import keras_unet`), and the normalisation
can't be left behind. A network of a script has no card yet; `trained_model` gives it one.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import zipfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import keras
from pydantic import BaseModel

from keras_unet import geometry, run_layout
from keras_unet._version import __version__
from keras_unet.data.label_rule import LabelMapping, default_classes
from keras_unet.data.normalization import Normalization
from keras_unet.disk import rename, shown_size, sync_file
from keras_unet.errors import ConfigError, DataError
from keras_unet.models.model_card import CARD, DAMAGED, card_in
from keras_unet.models.model_card import ModelCard as ModelCard
from keras_unet.models.pretrained.catalogue import is_name, pretrained_file, unknown_name
from keras_unet.models.unet import Structure, structure, unet_in
from keras_unet.remote_path import RemotePath, as_path, fetched, local_path
from keras_unet.settings import Frozen

AS_THEY_ARE = "Grey values go in as they are; if the script prepared them: --normalization"
_UNFINISHED = ".writing-"


class TrainedModel(NamedTuple):
    """A network and its card."""

    network: keras.Model
    card: ModelCard


Model: TypeAlias = "TrainedModel | keras.Model | str | Path"
Stated: TypeAlias = "Normalization | str | float | None"  # see `Normalization.of`


def trained_model(
    model: Model,
    *,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    float32: bool = False,
) -> TrainedModel:
    """What every function of this package makes of the model it is given.

    Args:
        model: what `load_model` returns or the place it takes, or any model of `build_unet`:
            compiled or not, cloned, or inside another model that adds nothing but a softmax.
        normalization: of a network that says nothing about it: "image", a number that grey values
            are divided by, a `Normalization`; None: images go in as they are.
        class_names: of a network that says nothing about them, background first, or with commas
            between; None: made up.
        float32: a twin that computes in float32, where the network does not.

    Raises:
        DataError: no model at that place, or it can't be loaded.
        ConfigError: no U-Net of this package; or something is stated that the model's card says
            otherwise, or that does not fit the network.
    """
    if isinstance(model, (str, Path)):
        return load_model(model, normalization=normalization, class_names=class_names)
    if isinstance(model, TrainedModel):
        trained = model
    elif isinstance(model, keras.Model):
        network = unet_in(model)
        trained = TrainedModel(network, _plain_card(network.name, structure(network)))
    else:
        raise ConfigError(
            f"found {type(model).__name__}, expected a model of build_unet, what load_model "
            "returns, the path of a run folder or .keras file, or a pretrained model's name"
        )
    trained = _stated(trained, normalization, class_names)
    return trained._replace(network=in_float32(trained.network)) if float32 else trained


def save_model(
    model: Model,
    path: str | Path,
    *,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
) -> Path:
    """Writes `path` (.keras) whole or not at all: beside it first, synced, then renamed.

    `load_model` gives back what was stated here; `keras.saving.load_model` opens the file too.

    Args:
        model, normalization, class_names: see `trained_model`.

    Raises:
        ConfigError: the path does not end in ".keras", or see `trained_model`.
    """
    path = local_path(path)
    if path.suffix != ".keras":
        raise ConfigError(f'{path}: expected a name that ends in ".keras"')
    trained = trained_model(model, normalization=normalization, class_names=class_names)
    return write_with_card(trained.network, trained.card, path)


def write_with_card(network: keras.Model, card: BaseModel, path: Path) -> Path:
    """Writes a Keras model and its card, whatever their kind, as one file, whole or not at all."""
    own = path.parent / f"{_UNFINISHED}{path.stem}-{os.getpid()}"
    own.mkdir(parents=True, exist_ok=True)  # Keras may write further files beside the model
    beside = own / path.name
    try:
        network.save(beside)
        with zipfile.ZipFile(beside, "a") as archive:
            archive.writestr(CARD, card.model_dump_json(indent=1))
        sync_file(beside)
        rename(beside, path)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return path


def clear_unfinished(folder: str | Path) -> None:
    """Removes what killed processes left of `save_model` in a folder that nobody else writes to."""
    for path in Path(folder).glob(f"{_UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def model_file(path: str | Path) -> Path:
    """The `.keras` file of what `load_model` takes.

    Raises:
        DataError: it isn't there.
    """
    path = Path(path)
    file = path / run_layout.BEST if path.is_dir() else path
    if file.is_file():
        return file
    shipped = pretrained_file(path)
    if shipped is not None and not path.exists():
        return shipped
    hint = ""
    if (path / "saved_model.pb").is_file():
        hint = "; this is a SavedModel, for servers: give what it was exported from"
    elif others := sorted(other.name for other in path.glob("*.keras")):
        hint = f"; found {', '.join(others)} there"
    elif runs := sorted(str(inside.parent) for inside in path.glob("*/best.keras"))[:3]:
        hint = f"; did you mean {' or '.join(runs)}?"
    elif shipped is not None:
        hint = f"; the folder {path} hides the pretrained model of this name: rename it"
    elif is_name(path):
        hint = unknown_name(path)
    raise DataError(f"{path}: no trained model here; expected a run folder or a .keras file{hint}")


def load_model(
    path: str | Path,
    *,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
) -> TrainedModel:
    """Loads a trained model, in safe mode, to compute in float32.

    Args:
        path: a `.keras` file that `train`, `save_model`, a script's `model.save` or Keras's
            `ModelCheckpoint` wrote; or a run folder (its `best.keras`); local, or remote (gs://…).
            Where there is nothing of that name: a pretrained model's, such as "nuclei".
        normalization, class_names: for a file that says nothing about them, see `trained_model`.

    Raises:
        DataError: no such file, no Keras model, or none of `build_unet`.
        ConfigError: what is stated does not fit the model.
        RemoteError: a remote file cannot be read.
    """
    place = as_path(path)
    if isinstance(place, RemotePath) and place.is_dir():
        place = place / run_layout.BEST
    with fetched(place) as local:
        file = model_file(local)
        card = read_card(file)
        try:
            network = keras.models.load_model(file, compile=False, safe_mode=True)
        except (OSError, ValueError, TypeError, KeyError, *DAMAGED) as error:
            raise DataError(f"{file}: Keras cannot load it safely ({error})") from error
        try:
            network = in_float32(unet_in(network))
        except ConfigError as error:
            raise DataError(f"{file}: {error}") from error
        card = card or _plain_card(file.stem, structure(network))
        return _stated(TrainedModel(network, card), normalization, class_names)


def read_card(path: str | Path) -> ModelCard | None:
    """The card of what `load_model` takes, without its network; see `card_in`.

    Raises:
        DataError: no model there, or a damaged one.
    """
    return card_in(model_file(path))


def in_float32(network: keras.Model) -> keras.Model:
    """The same network computing in float32, whatever policy it was trained under."""
    if all(layer.compute_dtype == "float32" for layer in network.layers):
        return network

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: "float32" if k == "dtype" else plain(v) for k, v in node.items()}
        return [plain(v) for v in node] if isinstance(node, (list, tuple)) else node

    twin = type(network).from_config(plain(network.get_config()))
    twin.set_weights(network.get_weights())
    return twin


def library_versions() -> dict[str, str]:
    """Of this package and what it computes with."""
    backend = keras.backend.backend()
    return {
        "keras_unet": __version__,
        backend: importlib.import_module(backend).__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _plain_card(name: str, form: Structure) -> ModelCard:
    """The card of a network of which nothing is known but its layers."""
    classes = default_classes(max(form.num_classes, 2))  # one channel: the foreground's
    return ModelCard(
        source="script",
        name=name,
        classes=classes,
        normalization=Normalization.of(None),
        labels=LabelMapping(kind="semantic", values=tuple(range(len(classes)))),
        image_dtype="float32",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=library_versions(),
        config={},
        data={},
        metrics={},
    )


def _stated(
    model: TrainedModel, normalization: Stated, class_names: str | Sequence[str] | None
) -> TrainedModel:
    """The model with what its owner says of it, where its card says nothing yet."""
    network, card = model
    if normalization is not None:
        stated = Normalization.of(normalization)
        if card.normalization.method != "none" and stated != card.normalization:
            raise ConfigError("a trained model brings its own normalisation; do not give another")
        channels = structure(network).channels
        if stated.mean is not None and len(stated.mean) != channels:
            raise ConfigError(
                f"normalization has {len(stated.mean)} means; expected one for each of the "
                f"{channels} channels"
            )
        card = card.model_copy(update={"normalization": stated})
    if class_names is not None:
        names = class_names.split(",") if isinstance(class_names, str) else class_names
        names = tuple(name.strip() for name in names)
        count = len(card.classes)
        if len(names) == 1 and structure(network).num_classes == 1:
            names = (card.classes[0], *names)
        if len(names) != count or len(set(names)) != count or not all(names):
            raise ConfigError(
                f"class_names is {names}; expected {count} different names, background first"
            )
        if card.names_classes and names != card.classes:
            raise ConfigError(
                f"a trained model brings its classes' names, {', '.join(card.classes)}; "
                "do not give others"
            )
        card = card.model_copy(update={"classes": names})
    return TrainedModel(network, card)


class ModelDescription(Frozen):
    """A trained network: its layers, the smallest sizes that it takes itself, and its card."""

    bytes: int | None  # of its file; None for a model in memory or elsewhere (gs://…)
    parameters: int
    network: Structure
    sizes: tuple[tuple[int, int], ...]  # the first legal inputs and their outputs; (): any
    card: ModelCard

    def to_text(self) -> str:
        """What it takes and gives, its classes and its training, for a person."""
        network = self.network
        legal = ", ".join(f"{size} -> {given}" for size, given in self.sizes)
        sizes = f"{legal} …; keras_unet.predict takes any" if legal else "any"
        ends = network.output or ("logits" if network.num_classes > 1 else "a logit")
        lines = [
            f"{shown_size(self.bytes or 0)}, {self.parameters:,} parameters",
            "",
            f"U-Net of depth {network.depth}, {network.filters} filters, padding "
            f"{network.padding}, upsampling {network.upsampling}, normalization "
            f"{network.normalization or 'none'}",
            f"  takes         float32 [?, ?, ?, {network.channels}]",
            f"  gives         float32 [?, ?, ?, {network.num_classes}], {ends}",
            f"  sizes         {sizes}",
            "",
            f"Model {self.card.name}",
            f"  classes       {', '.join(self.card.classes)}",
            *self.card.lines(),
        ]
        return "\n".join(lines)


def describe_model(model: Model, *, normalization: Stated = None) -> ModelDescription:
    """Describes any model of `build_unet`, or the file that holds it.

    Raises:
        DataError: no model at that path. ConfigError: see `trained_model`.
    """
    network, card = trained_model(model, normalization=normalization)
    form = structure(network)
    first = geometry.input_size(1, form.depth)
    legal = [first + i * geometry.stride(form.depth) for i in range(3)]
    return ModelDescription(
        bytes=_file_bytes(model) if isinstance(model, (str, Path)) else None,
        parameters=network.count_params(),
        network=form,
        sizes=tuple((n, geometry.output_size(n, form.depth)) for n in legal)
        if form.padding == "valid"
        else (),
        card=card,
    )


def _file_bytes(model: str | Path) -> int | None:
    place = as_path(model)
    return model_file(place).stat().st_size if isinstance(place, Path) else None
