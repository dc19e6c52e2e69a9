"""Executions of a pipeline in its metadata store, and what a killed run left of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ml_metadata import MetadataStore

OUTPUT = 4  # ml_metadata's Event.OUTPUT


class Step(NamedTuple):
    """One component in one run; `outputs` are ml_metadata's artifacts, by output key."""

    component: str
    state: str  # COMPLETE, CACHED, FAILED, RUNNING, CANCELED; of a Resolver, RESOLVED
    outputs: dict[str, list[Any]]


def open_store(path: Path) -> MetadataStore:
    """The SQLite metadata store at `path`."""
    from ml_metadata import MetadataStore
    from tfx.orchestration.metadata import sqlite_metadata_connection_config

    return MetadataStore(sqlite_metadata_connection_config(str(path)))


def runs(store: MetadataStore, pipeline: str) -> list[str]:
    """Identifiers of a pipeline's runs, oldest first; a store may hold several pipelines."""
    own = {execution.id for execution in _of(store, pipeline)}
    found = sorted(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id)
    return [
        run.name
        for run in found
        if any(execution.id in own for execution in store.get_executions_by_context(run.id))
    ]


def steps(store: MetadataStore, run: str) -> list[Step]:
    """What ran, was cached or failed in one run, in order."""
    context = store.get_context_by_type_and_name("pipeline_run", run)
    if context is None:
        return []
    executions = sorted(store.get_executions_by_context(context.id), key=lambda e: e.id)
    events = store.get_events_by_execution_ids([e.id for e in executions]) if executions else []
    outputs = [event for event in events if event.type == OUTPUT]
    artifacts = {a.id: a for a in store.get_artifacts_by_id([e.artifact_id for e in outputs])}
    types = {kind.id: kind.name for kind in store.get_execution_types()}
    found = []
    for execution in executions:
        by_key: dict[str, list[Any]] = {}
        for event in outputs:
            if event.execution_id == execution.id:
                key = event.path.steps[0].key if event.path.steps else ""
                by_key.setdefault(key, []).append(artifacts[event.artifact_id])
        resolved = types[execution.type_id].endswith(".Resolver")
        state = "RESOLVED" if resolved else _state(execution)
        found.append(Step(_component(store, execution), state, by_key))
    return found


def tidy(store: MetadataStore, pipeline: str, root: Path) -> list[str]:
    """Marks what a killed run left as running as cancelled, and removes its half-made outputs.

    TFX starts anew beside them, so they would only confuse. For use while no run is going on.
    Returns the names of the components.
    """
    left = []
    for execution in _of(store, pipeline):
        if _state(execution) not in ("RUNNING", "NEW"):
            continue
        component = _component(store, execution)
        execution.last_known_state = type(execution).CANCELED
        store.put_executions([execution])
        for pattern in (f"*/{execution.id}", f".system/*/{execution.id}"):
            for folder in (root / component).glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)
        left.append(component)
    return left


def _of(store: MetadataStore, pipeline: str) -> list[Any]:
    """Its executions."""
    context = store.get_context_by_type_and_name("pipeline", pipeline)
    return store.get_executions_by_context(context.id) if context else []


def _component(store: MetadataStore, execution: Any) -> str:
    for context in store.get_contexts_by_execution(execution.id):
        if context.type == "node":
            return context.name.partition(".")[2] or context.name
    return execution.name


def _state(execution: Any) -> str:
    return type(execution).State.Name(execution.last_known_state)
