"""Publishing a model as the next version of a folder that TF Serving watches, and going back.

A version is written beside, compared with the Keras model by a process of its own, and only then
renamed. Going back publishes an older version once more, under a new number: TF Serving serves the
highest, a number never changes its meaning, and the folder tells what was served after what.

The folder may be on an object store (gs://…): see `folders` for what is promised there.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_unet.data.graph_images import MAX_PIXELS
from keras_unet.errors import ExportError
from keras_unet.keras_backend import require_tensorflow
from keras_unet.models.keras_file import Model, Stated, trained_model
from keras_unet.remote_path import RemotePath, as_path, fetched
from keras_unet.serving.bundle import check_bundle, check_version, fingerprint, write_bundle
from keras_unet.serving.card import (
    CARD,
    CardFields,
    Rollback,
    WeightPrecision,
    read_rollback,
    read_served_card,
    write_rollback,
)
from keras_unet.serving.folders import (
    SAVED_MODEL,
    Draft,
    add_to_root,
    check_keep,
    drafted,
    numbered,
    pinned_versions,
)


def export(
    model: Model,
    folder: str | Path | RemotePath,
    *,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    precision: WeightPrecision = "float32",
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    keep: int | None = None,
    fields: CardFields | None = None,
) -> Path | RemotePath:
    """Publishes `model` as `folder`/<n>, n one more than the newest version there.

    Where the folder above holds TF Serving's configuration (`saved_models/` does), the model is
    added to its `models.config`.

    Args:
        model: any model of `build_unet`, what `load_model` returns, or the run folder or `.keras`
            file it takes.
        folder: such as "saved_models/unet" or "gs://bucket/models/unet"; made if absent.
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
        RemoteError: a remote folder cannot be written here: no library of its scheme, no
            credentials. That is found before anything is made.
    """
    require_tensorflow("export")
    check_keep(keep)
    folder = reached(folder)
    pinned_versions(folder)  # a damaged models.config is found before anything is published
    trained = trained_model(model, normalization=normalization, class_names=class_names)
    with drafted(folder) as draft:
        write_bundle(
            trained,
            draft.path,
            name=folder.resolve().name,
            precision=precision,
            tile=tile,
            max_pixels=max_pixels,
            fields=fields,
        )
        version = _placed(draft, folder, keep)
    add_to_root(folder)
    return version


def publish_bundle(
    bundle: str | Path,
    folder: str | Path | RemotePath,
    *,
    keep: int | None = None,
    files: Mapping[str, str] | None = None,
) -> Path | RemotePath:
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
        RemoteError: as for `export`.
    """
    check_keep(keep)
    bundle, folder = Path(bundle), reached(folder)
    pinned_versions(folder)  # as in `export`
    card = read_served_card(bundle)
    if card.name != folder.resolve().name:
        raise ExportError(f"{bundle}: made for {card.name!r}; expected {folder.resolve().name!r}")
    same = fingerprint(bundle)
    with drafted(folder) as draft:
        newest = draft.there[max(draft.there)] if draft.there else None
        if newest is not None and _is_same(newest, same):
            version = newest
        else:
            _copy(bundle, draft.path)
            for name, text in (files or {}).items():
                (draft.path / "assets.extra" / name).write_text(text, encoding="utf-8")
            check_bundle(draft.path)
            version = _placed(draft, folder, keep)
    add_to_root(folder)
    return version


def rollback(folder: str | Path | RemotePath, to: int | None = None) -> Path | RemotePath:
    """Publishes an older version once more, as the newest; a server then takes it up by itself.

    Args:
        folder: such as "saved_models/unet" or "gs://bucket/models/unet".
        to: the version to go back to; None: the one before the one that is served now, so that
            going back twice goes back two.

    Returns:
        The new version's folder: a copy, but for `assets.extra/rollback.json`, which says of which.

    Raises:
        ExportError: there is no such version, it does not load, or what one of them notes of
            itself is damaged; nothing is published then.
        RemoteError: as for `export`.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder; expected one with published versions")
    if (folder / SAVED_MODEL).is_file():
        above = folder.parent
        raise ExportError(f"{folder}: is a version; expected the folder of all of them, {above}")
    if not numbered(folder):
        raise ExportError(f"{folder}: holds no published version; expected a model's folder")
    with drafted(folder) as draft:
        there = draft.there
        if to is None:
            now = _origin(there, max(there, default=0))
            to = max((n for n in there if n < now), default=None)
            if to is None:
                raise ExportError(f"{folder}: no version before {now}; found {_listed(there)}")
        if to not in there:
            raise ExportError(f"{folder}: no version {to}; found {_listed(there)}")
        origin = Rollback(of=_origin(there, to))
        with fetched(there[to]) as source:
            _copy(source, draft.path)
        check_version(draft.path)
        write_rollback(draft.path, origin)
        return draft.place()


def reached(folder: str | Path | RemotePath) -> Path | RemotePath:
    """The folder; a remote one is asked for first, which takes its library and credentials."""
    place = as_path(folder)
    if isinstance(place, RemotePath):
        place.exists()
    return place


def _placed(draft: Draft, folder: Path | RemotePath, keep: int | None) -> Path | RemotePath:
    version = draft.place()
    if keep is not None:
        draft.retire(keep, pinned_versions(folder))
    return version


def _is_same(version: Path | RemotePath, same: str) -> bool:
    if not (version / CARD).is_file():
        return False
    with fetched(version) as folder:
        return fingerprint(folder) == same


def _origin(there: Mapping[int, Path | RemotePath], version: int) -> int:
    """The version that `version` is a copy of, or itself."""
    note = read_rollback(there[version]) if version in there else None
    return version if note is None else note.of


def _listed(there: Mapping[int, Path | RemotePath]) -> str:
    return ", ".join(map(str, sorted(there))) or "none"


def _copy(source: Path, beside: Path) -> None:
    """Copies a folder and compares every byte."""
    shutil.copytree(source, beside)
    same = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    _, wrong, missing = filecmp.cmpfiles(source, beside, map(str, same), shallow=False)
    if wrong or missing:
        raise ExportError(f"{source}: could not be copied: {', '.join(wrong + missing)}")
