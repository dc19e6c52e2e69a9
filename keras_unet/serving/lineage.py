"""Lineage of a published version: the run, the code and the data that it came from.

A version that a pipeline pushed holds `assets.extra/lineage.json`: which model of which metadata
store it is. The rest is read from that store (ML Metadata, which TFX keeps).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from keras_unet.errors import ExportError
from keras_unet.remote_path import RemotePath, as_path, fetched
from keras_unet.serving.card import Origin, read_origin, read_rollback, read_served_card
from keras_unet.serving.folders import published
from keras_unet.settings import Frozen

# small files that say more than the properties, by the type of artifact
_CONTENTS = {
    "keras_unet.DeadLetters": "summary.json",
    "ModelRun": "code.json",
    "ModelEvaluation": "verdict.json",
    "InfraBlessing": "report.json",
}
# of examples, beside the model
_CHECKS = ("ExampleStatistics", "ExampleAnomalies", "keras_unet.DataPages")
_MEASURES = {"baseline_model", "baseline_statistics", "baseline"}  # inputs: what others are held to
_LARGEST = 1 << 20  # bytes of such a file
_PLUMBING = {"name", "state", "producer_component", "pipeline_name", "is_external", "tfx_version"}


class ArtifactNote(Frozen):
    """An artifact: its properties, and what its small JSON file says, where it is still there."""

    id: int
    type: str
    uri: str
    properties: dict[str, Any]
    content: Any = None


class Step(Frozen):
    """What a component did: when (UTC), with which settings, from which artifacts to which."""

    id: int
    component: str
    started: str
    seconds: float
    properties: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[ArtifactNote, ...]


class Lineage(Frozen):
    """A version's own record, and the steps of the pipeline that led to it, in their order.

    missing: why there are no steps, and how to get them; None where there are.
    """

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
        pipeline, runs, steps = _read_steps(place, origin)
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


def _read_steps(place: str, origin: Origin) -> tuple[str | None, tuple[str, ...], tuple[Step, ...]]:
    """(pipeline, its runs that trained or pushed the model, the steps in their order).

    The steps are those that the model was made from, those that it went into, and the checks of
    its examples. A step whose result was taken from the cache is told as it was first done.

    Raises:
        ImportError: ml-metadata is not installed.
        ExportError: there is no store, it cannot be read, or it does not hold this model.
    """
    from ml_metadata import errors as mlmd_errors
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    path = Path(place)
    if not place or not path.is_file():
        raise ExportError(f"{place or 'no metadata store'}: no such file; expected a SQLite store")
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READONLY
    try:
        return _History(MetadataStore(config)).of(origin, place)
    except (mlmd_errors.StatusError, RuntimeError) as error:  # the latter where it is no SQLite
        raise ExportError(f"{place}: cannot be read as a metadata store ({error})") from error


class _History:
    """The walk over a store, from a model to what it came from and what came of it.

    Not by `get_lineage_subgraph`: its nodes are chosen by a filter query, which ml-metadata 1.21
    refuses (it was built without ZetaSQL).
    """

    def __init__(self, store: Any) -> None:
        from ml_metadata.proto.metadata_store_pb2 import Event, Execution

        self._inputs = Event.INPUT, Event.DECLARED_INPUT
        self._outputs = Event.OUTPUT, Event.DECLARED_OUTPUT
        self._complete = Execution.COMPLETE
        self._store = store
        self._types = {one.id: one.name for one in store.get_artifact_types()}

    def of(
        self, origin: Origin, place: str
    ) -> tuple[str | None, tuple[str, ...], tuple[Step, ...]]:
        found = self._store.get_artifacts_by_id([origin.model])
        if not found or found[0].uri != origin.uri:
            raise ExportError(
                f"{place}: holds no model {origin.model} at {origin.uri}; expected the store of "
                "the pipeline that pushed this version"
            )
        trainer = self._producer(origin.model)
        if trainer is None:
            raise ExportError(f"{place}: does not say what made model {origin.model}")
        upstream = self._upstream(trainer)
        numbers = {*upstream, *self._consumers([origin.model])}
        examples = [a for n in upstream for a in self._artifacts(n, self._outputs, ("Examples",))]
        # later ones came of another setting of the checks: they were not known to this model
        numbers |= {number for number in self._checks(examples) if number < trainer}
        executions = self._store.get_executions_by_id(sorted(numbers))
        near = [trainer, *self._consumers([origin.model])]
        pipeline = next((name for n in near for name in self._contexts(n, "pipeline")), None)
        runs = dict.fromkeys(name for n in near for name in self._contexts(n, "pipeline_run"))
        return pipeline, tuple(runs), tuple(self._step(one) for one in executions)

    def _producer(self, artifact: int) -> int | None:
        """The execution that made it; the later ones took it from the cache."""
        events = self._store.get_events_by_artifact_ids([artifact])
        return min((e.execution_id for e in events if e.type in self._outputs), default=None)

    def _upstream(self, last: int) -> set[int]:
        found, waiting = {last}, [last]
        while waiting:
            for artifact in self._artifacts(waiting.pop(), self._inputs):
                maker = self._producer(artifact)
                if maker is not None and maker not in found:
                    found.add(maker)
                    waiting.append(maker)
        return found

    def _consumers(self, artifacts: Sequence[int]) -> set[int]:
        """The complete executions that an artifact was given to, those that used the cache not.

        Nor those of other models and other data, which it was only the measure of.
        """
        events = self._store.get_events_by_artifact_ids(artifacts) if artifacts else []
        given = [e for e in events if e.type in self._inputs and not _MEASURES.issuperset(_keys(e))]
        numbers = sorted({e.execution_id for e in given})
        return {
            one.id
            for one in (self._store.get_executions_by_id(numbers) if numbers else ())
            if one.last_known_state == self._complete
        }

    def _checks(self, examples: Sequence[int]) -> set[int]:
        """Statistics of examples, and what they were checked by."""
        found: set[int] = set()
        waiting = list(examples)
        while waiting:
            for number in self._consumers([waiting.pop()]) - found:
                made = self._artifacts(number, self._outputs, _CHECKS)
                if made:
                    found.add(number)
                    waiting += made
        return found

    def _artifacts(
        self, execution: int, kinds: Iterable[int], types: Sequence[str] = ()
    ) -> list[int]:
        events = self._store.get_events_by_execution_ids([execution])
        numbers = [e.artifact_id for e in events if e.type in kinds]
        if not types or not numbers:
            return numbers
        held = self._store.get_artifacts_by_id(numbers)
        return [one.id for one in held if self._types[one.type_id] in types]

    def _contexts(self, execution: int, kind: str) -> list[str]:
        """The names of what an execution belongs to: a pipeline, a run of it, a node of it."""
        found = self._store.get_contexts_by_execution(execution)
        return [one.name for one in found if one.type == kind]

    def _step(self, execution: Any) -> Step:
        inputs: dict[str, list[int]] = {}
        outputs: list[int] = []
        for event in self._store.get_events_by_execution_ids([execution.id]):
            if event.type in self._inputs:
                for key in _keys(event):
                    inputs.setdefault(key, []).append(event.artifact_id)
            elif event.type in self._outputs:
                outputs.append(event.artifact_id)
        nodes = self._contexts(execution.id, "node")
        begun = execution.create_time_since_epoch / 1000
        return Step(
            id=execution.id,
            component=nodes[0].rpartition(".")[2] if nodes else str(execution.type),
            started=datetime.fromtimestamp(begun, timezone.utc).isoformat(timespec="seconds"),
            seconds=round(execution.last_update_time_since_epoch / 1000 - begun, 1),
            properties=_properties(execution),
            inputs={key: tuple(numbers) for key, numbers in sorted(inputs.items())},
            outputs=tuple(
                self._note(one) for one in self._store.get_artifacts_by_id(sorted(set(outputs)))
            )
            if outputs
            else (),
        )

    def _note(self, artifact: Any) -> ArtifactNote:
        kind = self._types[artifact.type_id]
        properties = _properties(artifact)
        if "tfx_version" in artifact.custom_properties:
            properties["tfx_version"] = _value(artifact.custom_properties["tfx_version"])
        return ArtifactNote(
            id=artifact.id,
            type=kind,
            uri=artifact.uri,
            properties=properties,
            content=_content(artifact.uri, _CONTENTS.get(kind)),
        )


def _keys(event: Any) -> list[str]:
    """What an artifact was given as; twice where it is compared with itself."""
    return [step.key for step in event.path.steps if step.key] or [""]


def _properties(one: Any) -> dict[str, Any]:
    """Of an artifact or an execution, without what the orchestrator keeps for itself."""
    held = {**one.properties, **one.custom_properties}
    return {
        key: _value(value)
        for key, value in sorted(held.items())
        if key not in _PLUMBING and not key.startswith("__")
    }


def _value(value: Any) -> Any:
    """A property; text that is JSON is opened."""
    kind = value.WhichOneof("value")
    if kind == "struct_value":
        return json_format.MessageToDict(value.struct_value)
    found = getattr(value, kind) if kind else None
    if isinstance(found, str) and found[:1] in ("{", "["):
        with contextlib.suppress(ValueError):
            return json.loads(found)
    return found


def _content(uri: str, name: str | None) -> Any:
    path = Path(uri, name or "")
    if name is None or "://" in uri or not path.is_file() or path.stat().st_size > _LARGEST:
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
