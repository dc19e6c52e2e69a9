"""`export`: publishes a model as the next version of a folder that TF Serving watches.

A version is written beside, compared with the Keras model by a process of its own, and only then
renamed. Going back publishes an older version once more, under a new number: TF Serving serves the
highest, a number never changes its meaning, and the folder tells what was served after what.
"""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_unet.data.encoded import MAX_PIXELS
from keras_unet.errors import ExportError
from keras_unet.keras_backend import require_tensorflow
from keras_unet.models.bundle import Model, Stated, trained_model
from keras_unet.serving import golden
from keras_unet.serving.bundle import check_bundle, fingerprint, write_bundle
from keras_unet.serving.card import CARD, CardFields, read_served_card
from keras_unet.serving.configs import add_to_root, pinned_versions
from keras_unet.serving.folders import check_keep, place, retire, unfinished, versions
from keras_unet.serving.graph import Precision

_ROLLBACK = Path("assets.extra", "rollback.json")


def export(
    model: Model,
    folder: str | Path,
    *,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    precision: Precision = "float32",
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    keep: int | None = None,
    fields: CardFields | None = None,
) -> Path:
    """Publishes `model` as `folder`/<n>, n one more than the newest version there.

    Where the folder above holds TF Serving's configuration (`saved_models/` does), the model is
    added to its `models.config`.

    Args:
        model: any model of `build_unet`, what `load_model` returns, or the run folder or `.keras`
            file it takes.
        folder: such as "saved_models/unet"; made if absent.
        normalization: of a model from a script: what is done to grey values before the network sees
            them becomes part of what is published. "image", a number that they are divided by, or
            a `Normalization`; None: images go in as they are, and the card says so. A model that
            `train` or `save_model` kept brings its own.
        class_names: of a model from a script, background first; None: made up.
        precision, tile, max_pixels: see `write_saved_model`.
        keep: delete all versions but the newest so many, and those that `models.config` names.
        fields: what the model card says beside what training knows.

    Returns:
        The published version's folder; see `write_bundle` for what is in it.

    Raises:
        DataError: there is no trained model at the path.
        ConfigError: an option is out of range, or the model is none of `build_unet`.
        ExportError: `models.config` is damaged, the SavedModel does not load, or a signature
            differs from the Keras model with the same weights by more than 1e-5; nothing is
            published then.
    """
    require_tensorflow("export")
    check_keep(keep)
    folder = Path(folder)
    pinned_versions(folder)  # a damaged models.config is found before anything is published
    trained = trained_model(model, normalization=normalization, class_names=class_names)
    with unfinished(folder) as beside:
        write_bundle(
            trained,
            beside,
            name=folder.resolve().name,
            precision=precision,
            tile=tile,
            max_pixels=max_pixels,
            fields=fields,
        )
        version = _placed(beside, keep)
    add_to_root(folder)
    return version


def publish_bundle(
    bundle: str | Path,
    folder: str | Path,
    *,
    keep: int | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Publishes what `write_bundle` wrote as `folder`/<n>: with `export`'s guarantees.

    The newest version is given back, and nothing published, where it is the same model already: so
    that a publisher who was killed after the rename may simply try again.

    Args:
        bundle: a folder of `write_bundle`, made for a model of `folder`'s name.
        folder, keep: as for `export`.
        files: notes on this publication to add: text by name, kept in `assets.extra/`.

    Returns:
        The version's folder.

    Raises:
        ConfigError: `keep` is less than 1.
        ExportError: `models.config` or the bundle is damaged, the bundle was made for another
            name, does not load here, or does not answer as the Keras model did; nothing is
            published then.
    """
    check_keep(keep)
    bundle, folder = Path(bundle), Path(folder)
    pinned_versions(folder)  # as in `export`
    card = read_served_card(bundle)
    if card.name != folder.resolve().name:
        raise ExportError(f"{bundle}: made for {card.name!r}; expected {folder.resolve().name!r}")
    same = fingerprint(bundle)
    with unfinished(folder) as beside:
        newest = folder / str(max(versions(folder), default=0))
        if newest.is_dir() and (newest / CARD).is_file() and fingerprint(newest) == same:
            version = newest
        else:
            _copy(bundle, beside)
            for name, text in (files or {}).items():
                (beside / "assets.extra" / name).write_text(text, encoding="utf-8")
            check_bundle(beside)
            version = _placed(beside, keep)
    add_to_root(folder)
    return version


def rollback(folder: str | Path, to: int | None = None) -> Path:
    """Publishes an older version once more, as the newest; a server then takes it up by itself.

    Args:
        folder: such as "saved_models/unet".
        to: the version to go back to; None: the one before the one that is served now, so that
            going back twice goes back two.

    Returns:
        The new version's folder: a copy, but for `assets.extra/rollback.json`, which says of which.

    Raises:
        ExportError: there is no such version, or it does not load; nothing is published then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder; expected one with published versions")
    with unfinished(folder) as beside:
        there = versions(folder)
        if to is None:
            now = _origin(folder, there[-1]) if there else 0
            to = max((n for n in there if n < now), default=None)
            if to is None:
                raise ExportError(f"{folder}: no version before {now}; found {there or 'none'}")
        if to not in there:
            raise ExportError(f"{folder}: no version {to}; found {there or 'none'}")
        source = folder / str(to)
        _copy(source, beside)
        if (beside / golden.EXPECTED).is_file():
            check_bundle(beside)
        else:  # published before these were kept, or not by this package: that it loads
            golden.answers(beside)
        note = beside / _ROLLBACK
        note.parent.mkdir(exist_ok=True)
        note.write_text(json.dumps({"of": _origin(folder, to)}) + "\n", encoding="utf-8")
        return place(beside)


def _origin(folder: Path, version: int) -> int:
    """The version that `version` is a copy of, or itself."""
    try:
        return int(json.loads((folder / str(version) / _ROLLBACK).read_text("utf-8"))["of"])
    except FileNotFoundError:
        return version


def _copy(source: Path, beside: Path) -> None:
    """Copies a folder and compares every byte."""
    shutil.copytree(source, beside)
    same = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    _, wrong, missing = filecmp.cmpfiles(source, beside, map(str, same), shallow=False)
    if wrong or missing:
        raise ExportError(f"{source}: could not be copied: {', '.join(wrong + missing)}")


def _placed(beside: Path, keep: int | None) -> Path:
    version = place(beside)
    if keep is not None:
        retire(beside.parent, keep, pinned_versions(beside.parent))
    return version
