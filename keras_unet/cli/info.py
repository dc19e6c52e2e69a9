"""`keras-unet info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from keras_unet import run_layout
from keras_unet.remote_path import as_path, fetched

if TYPE_CHECKING:
    from keras_unet.models.keras_file import ModelDescription
    from keras_unet.models.model_card import ModelCard
    from keras_unet.serving.card import Description, TensorForm


def info(
    model: Annotated[
        str,
        typer.Argument(
            help="A published version, e.g. saved_models/unet/3, a run folder or a .keras file."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what a model takes and gives, what it was trained on, and its scores."""
    place = as_path(model)
    kept = next((file for file in (place, place / run_layout.BEST) if file.is_file()), None)
    if kept is None and place.name.endswith(".keras"):
        kept = place  # which says that it is not there
    if kept is not None:
        from keras_unet.models.keras_file import describe_model

        with fetched(kept) as file:
            described = describe_model(file)
        lines, text = _kept_lines(model, described), described.model_dump_json(indent=1)
    else:
        from keras_unet.serving.card import describe

        found = describe(model)
        lines, text = _lines(found), found.model_dump_json(indent=1)
    typer.echo(text if as_json else "\n".join(lines))


def _kept_lines(path: str, found: ModelDescription) -> list[str]:
    network = found.network
    legal = ", ".join(f"{size} -> {given}" for size, given in found.sizes)
    sizes = f"{legal} …; keras_unet.predict takes any" if legal else "any"
    ends = network.output or ("logits" if network.num_classes > 1 else "a logit")
    return [
        f"{path}: {_size(found.bytes or 0)}, {found.parameters:,} parameters",
        "",
        f"U-Net of depth {network.depth}, padding {network.padding}, "
        f"upsampling {network.upsampling}",
        f"  takes         float32 [?, ?, ?, {network.channels}]",
        f"  gives         float32 [?, ?, ?, {network.num_classes}], {ends}",
        f"  sizes         {sizes}",
        "",
        f"Model {found.card.name}",
        f"  classes       {', '.join(found.card.classes)}",
        *_training_lines(found.card),
    ]


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
    size = "unknown" if fields.pixel_size is None else f"{fields.pixel_size:g} µm"
    return [
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
        f"  weights       {card.precision}",
        *_training_lines(model),
    ]


def _training_lines(card: ModelCard) -> list[str]:
    grey = card.normalization.model_dump(exclude_none=True)
    said = ", ".join(f"{k} {v}" for k, v in grey.items())
    made = "training run " if card.source == "train" else "from a script"
    lines = [
        f"  grey values   {'as they are' if card.normalization.method == 'none' else said}",
        f"  {made} {card.name}, {card.created}",
        "  versions      " + ", ".join(f"{k} {v}" for k, v in card.versions.items()),
    ]
    if card.metrics:
        lines.append("  metrics       " + _pairs(card.metrics))
    if card.data:
        lines.append("  data check    " + _pairs(card.data))
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
