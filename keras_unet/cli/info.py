"""`keras-unet info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from keras_unet.serving.describe import Description, TensorForm


def info(
    version: Annotated[str, typer.Argument(help="A published version, e.g. saved_models/unet/3.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what a published model takes and gives, what it was trained on, and its scores."""
    from keras_unet.serving.describe import describe

    found = describe(version)
    typer.echo(found.model_dump_json(indent=1) if as_json else "\n".join(_lines(found)))


def _lines(found: Description) -> list[str]:
    lines = [
        f"{found.folder}: {_size(found.bytes)}, {_size(found.weight_bytes)} of them weights; "
        f"TensorFlow {found.tensorflow}",
        "",
        "Signatures",
    ]
    for signature in found.signatures:
        taken, given = (", ".join(map(_tensor, t)) for t in (signature.inputs, signature.outputs))
        count = found.warmup.get(signature.name, 0)
        lines.append(f"  {signature.name}({taken})")
        lines.append(f"    -> {given}; {count} warm-up request{'s' * (count != 1)}")
    return lines + _card_lines(found)


def _card_lines(found: Description) -> list[str]:
    card = found.card
    if card is None:
        return ["", "No model card: not exported by keras_unet."]
    model, fields = card.model, card.fields
    grey = model.normalization.model_dump(exclude_none=True)
    size = "unknown" if fields.pixel_size is None else f"{fields.pixel_size:g} µm"
    lines = [
        "",
        f"Model {card.name}, exported {card.exported} by {card.exported_by}",
        *([f"  {fields.description}"] if fields.description else []),
        *([f"  authors       {', '.join(fields.authors)}"] if fields.authors else []),
        *([f"  citation      {fields.citation}"] if fields.citation else []),
        f"  licence       {fields.licence or 'not stated'}; "
        f"training data {fields.data_licence or 'not stated'}",
        "  classes       "
        + ", ".join(f"{c.name} (mask {c.value}, {c.colour})" for c in card.classes),
        f"  images        {model.image_dtype}, pixel size {size}; at most {card.max_pixels:,} "
        f"pixels, in tiles of at most {card.tile}",
        f"  grey values   {', '.join(f'{k} {v}' for k, v in grey.items())}",
        f"  weights       {card.precision}",
        f"  training run  {model.name}, {model.created}",
        "  versions      " + ", ".join(f"{k} {v}" for k, v in model.versions.items()),
    ]
    if model.metrics:
        lines.append("  metrics       " + _pairs(model.metrics))
    if model.data:
        lines.append("  data check    " + _pairs(model.data))
    return lines


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in values.items()
        if v is not None
    )


def _tensor(form: TensorForm) -> str:
    if form.shape is None:
        return f"{form.name}: {form.dtype} of any shape"
    sizes = ", ".join("?" if n is None else str(n) for n in form.shape)
    return f"{form.name}: {form.dtype} [{sizes}]"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
