"""`keras-unet lineage`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.tree import Tree

    from keras_unet.serving.lineage import ArtifactNote, Lineage

_LONGEST = 160  # characters of a value


def lineage(
    version: Annotated[str, typer.Argument(help="A published version, e.g. saved_models/unet/3.")],
    metadata: Annotated[
        Path | None,
        typer.Option(help="The pipeline's metadata store; default: the one the version names."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show where a published model comes from: run, code, settings, checks, data."""
    from keras_unet.console import Console
    from keras_unet.serving.lineage import lineage as trace

    found = trace(version, metadata)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        Console().print(_tree(found))


def _tree(found: Lineage) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(f"{found.folder}: {found.name}", style="bold"))
    own = tree.add("the version itself")
    _say(own, "exported", f"{found.exported} by {found.exported_by}")
    if found.copy_of is not None:
        _say(own, "copy of", f"version {found.copy_of} (keras-unet rollback)")
    _say(own, "made with", _listed(found.versions))
    _say(own, "scores in training", _listed(found.metrics))
    if found.missing is not None:
        tree.add(Text(found.missing, style="yellow"))
        return tree
    if found.origin is not None:
        _say(tree, "metadata store", found.origin.metadata)
    _say(tree, "pipeline", f"{found.pipeline}, runs {', '.join(found.runs)}")
    for step in found.steps:
        when = f"execution {step.id}, {step.started}, {step.seconds:g} s"
        node = tree.add(Text.assemble((f"{step.component} ", "bold"), (when, "dim")))
        for key, value in _settings(step.component, step.properties).items():
            _say(node, key, value)
        for note in step.outputs:
            _add_artifact(node, note)
    return tree


def _add_artifact(node: Tree, note: ArtifactNote) -> None:
    from rich.text import Text

    branch = node.add(Text.assemble(f"{note.type} {note.id} ", (note.uri, "dim")))
    for key, value in note.properties.items():
        hidden = key == "tfx_version" or key.startswith(("current_", "baseline_"))
        if not hidden and value not in ("", None):
            _say(branch, key, value)
    content = note.content
    if isinstance(content, dict):
        for key, value in content.items():
            if key not in note.properties and key not in ("findings", "message", "blessed"):
                _say(branch, key, value)
        for one in content.get("findings", ()):
            value = "undefined" if one["value"] is None else f"{one['value']:.4f}"
            where = f" on {one['slice']}" if one["slice"] else ""
            _say(branch, f"{one['score']}{where}", f"{value}, {one['limit']}: {one['outcome']}")


def _settings(component: str, properties: dict[str, Any]) -> dict[str, Any]:
    """What a person chose, of a component's parameters."""
    given = properties.get("custom_config")
    if isinstance(given, dict) and isinstance(given.get("train"), dict):
        from keras_unet.settings import flat

        return dict(flat(given["train"]))
    kept = {k: v for k, v in properties.items() if v not in (None, "", "null", [], {})}
    return {k: v for k, v in kept.items() if component != "Trainer" or k != "custom_config"}


def _say(node: Tree, key: str, value: Any) -> None:
    from rich.text import Text

    text = value if isinstance(value, str) else _listed(value)
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    node.add(Text.assemble((f"{key}: ", "cyan"), text.replace("\n", " ")))


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_listed(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_listed, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
