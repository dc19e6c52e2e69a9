"""`lineage`: from a published version back to the run, the code and the data that it came from.

A version that a pipeline pushed holds `assets.extra/lineage.json`: which model of which metadata
store it is. The rest is read from that store (ML Metadata, which TFX keeps).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from keras_unet.errors import ExportError
from keras_unet.remote_path import RemotePath, as_path, fetched
from keras_unet.serving.card import Origin, read_origin, read_rollback, read_served_card
from keras_unet.serving.folders import published

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class ArtifactNote(BaseModel):
    """An artifact: its properties, and what its small JSON file says, where it is still there."""

    model_config = _FROZEN

    id: int
    type: str
    uri: str
    properties: dict[str, Any]
    content: Any = None


class Step(BaseModel):
    """What a component did: when (UTC), with which settings, from which artifacts to which."""

    model_config = _FROZEN

    id: int
    component: str
    started: str
    seconds: float
    properties: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[ArtifactNote, ...]


class Lineage(BaseModel):
    """A version's own record, and the steps of the pipeline that led to it, in their order.

    missing: why there are no steps, and how to get them; None where there are.
    """

    model_config = _FROZEN

    folder: str
    name: str
    exported: str
    exported_by: str
    copy_of: int | None  # the version that was gone back to
    versions: dict[str, str]
    settings: dict[str, Any]
    metrics: dict[str, float]
    origin: Origin | None
    pipeline: str | None = None
    runs: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    missing: str | None = None


def served_origin(folder: str | Path | RemotePath) -> Origin | None:
    """Which pipeline's model the newest version in `folder` is, even after `rollback`.

    Returns:
        None: there is no version, or no pipeline pushed it.

    Raises:
        ExportError: its record is damaged. RemoteError: a remote folder cannot be read.
    """
    there = published(as_path(folder))
    return read_origin(there[max(there)]) if there else None


def lineage(version: str | Path | RemotePath, metadata: str | Path | None = None) -> Lineage:
    """Where a published version comes from.

    Args:
        version: its folder, e.g. "saved_models/unet/3" or "gs://bucket/models/unet/3".
        metadata: the pipeline's metadata store; None: the one that the version remembers.

    Returns:
        What the version itself records; the steps too where the store can be read.

    Raises:
        ExportError: no such version, or its records are damaged, or the store that `metadata`
            names cannot be read or does not hold this model.
    """
    with fetched(version) as folder:
        card = read_served_card(folder)
        origin, copied = read_origin(folder), read_rollback(folder)
    own = Lineage(
        folder=str(as_path(version)),
        name=card.name,
        exported=card.exported,
        exported_by=card.exported_by,
        copy_of=None if copied is None else copied.of,
        versions=card.model.versions,
        settings=card.model.config,
        metrics=card.model.metrics,
        origin=origin,
    )
    if origin is None:
        return own.model_copy(
            update={"missing": "no pipeline pushed this version: it was exported by hand"}
        )
    place = str(metadata or origin.metadata)
    try:
        from keras_unet.serving.metadata_store import read_steps

        pipeline, runs, steps = read_steps(place, origin)
    except ImportError:
        return own.model_copy(
            update={
                "missing": "the rest is in the pipeline's metadata store, read with ml-metadata; "
                "run this command in the environment of the pipeline (.venv-tfx/bin/keras-unet)"
            }
        )
    except ExportError as error:
        if metadata is not None:
            raise
        hint = f"{error}; where the store has moved, give its place with --metadata"
        return own.model_copy(update={"missing": hint})
    return own.model_copy(update={"pipeline": pipeline, "runs": runs, "steps": steps})
