"""What is read from a metadata store that holds more than one pipeline, and what is tidied up."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipelines.executions import open_store, runs, steps, tidy

RUNNING, COMPLETE = mlmd.Execution.RUNNING, mlmd.Execution.COMPLETE


def add_run(store: MetadataStore, pipeline: str, run: str, states: dict[str, int]) -> list[int]:
    """A run as TFX's launcher registers it; the numbers of its executions."""
    types = {
        kind: store.put_context_type(mlmd.ContextType(name=kind))
        for kind in ("pipeline", "pipeline_run", "node")
    }
    kind = store.put_execution_type(mlmd.ExecutionType(name="a.Component"))
    found = []
    for component, state in states.items():
        execution = mlmd.Execution(type_id=kind, last_known_state=state)
        names = {
            "pipeline": pipeline,
            "pipeline_run": run,
            "node": f"{pipeline}.{component}",
        }
        contexts = [mlmd.Context(type_id=types[k], name=name) for k, name in names.items()]
        number, _, _ = store.put_execution(
            execution, [], contexts, reuse_context_if_already_exist=True
        )
        found.append(number)
    return found


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "metadata.sqlite")


def test_runs_of_one_pipeline_among_others(store):
    add_run(store, "cells", "monday", {"A": COMPLETE, "B": COMPLETE})
    add_run(store, "nuclei", "tuesday", {"A": COMPLETE})
    assert runs(store, "cells") == ["monday"]
    assert runs(store, "nuclei") == ["tuesday"]
    assert runs(store, "others") == []
    assert [step.component for step in steps(store, "monday")] == ["A", "B"]


def test_what_a_killed_run_left_is_removed_and_nothing_else(store, tmp_path):
    done, left = add_run(store, "cells", "monday", {"A": COMPLETE, "B": RUNNING})
    (other,) = add_run(store, "nuclei", "tuesday", {"B": RUNNING})
    kept = [tmp_path / "A" / "out" / str(done), tmp_path / "B" / "out" / str(other)]
    gone = [tmp_path / "B" / "out" / str(left), tmp_path / "B" / ".system" / "x" / str(left)]
    for folder in (*kept, *gone):
        folder.mkdir(parents=True)
    assert tidy(store, "cells", tmp_path) == ["B"]
    assert all(folder.exists() for folder in kept) and not any(f.exists() for f in gone)
    assert {step.component: step.state for step in steps(store, "monday")} == {
        "A": "COMPLETE",
        "B": "CANCELED",
    }
    assert [step.state for step in steps(store, "tuesday")] == ["RUNNING"]
    assert tidy(store, "cells", tmp_path) == []
