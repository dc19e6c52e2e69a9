"""Options of `predict`, frozen and validated."""

from __future__ import annotations

from math import inf
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from keras_unet.settings import Section

Symmetries = Literal["none", "flips", "all", "rotations7"]
Average = Literal["probabilities", "logits"]
Blend = Literal["exact", "gaussian", "flat"]
Precision = Literal["float32", "bfloat16", "auto"]
Stored = Literal["float32", "float16", "uint8"]
Pixels = Annotated[int, Field(ge=1)]


class PredictOptions(Section):
    """Options of a prediction; the default is the paper's overlap-tile, once, in float32.

    tile: largest input tile, pixels a side or (height, width). None: the fastest that memory
        holds.
    batch_size: tiles computed together. None: small tiles are put together.
    memory: bytes that prediction may take beside what the process holds already. None: half of
        what is free.
    symmetries: versions of the input whose predictions are averaged: "flips" (4), "all" (the 8
        symmetries of the square), "rotations7" (section 4 of the paper: "averaged over 7 rotated
        versions of the input data").
    average: of versions and of the models of an ensemble: of their probabilities or their logits.
    blend: "exact": every pixel from one tile, with all the context that it can see. "gaussian" and
        "flat": overlapping tiles of a same-padding network, weighted by a Gaussian or equally; the
        image's border is the tiles' border. Measured on random networks (depth 3, tiles of 128²)
        as the jump of the error where a tile ends: flat 0.07, Gaussian 0.03 at an overlap of 0.25;
        flat 0.08, Gaussian 0.001 at 0.5; exact none (1e-7).
    overlap: share of a tile that it has in common with the next, for "gaussian" and "flat".
    precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware computes in it. None:
        as the network computes; `load_model` gives float32. Measured on a CPU with avx512_bf16:
        1.6 to 2.6 times as fast, probabilities differ by up to 0.07 (mean 0.0005), 1 pixel in
        4,000 changes class; so it is not the default.
    dtype: of the probabilities given; "uint8" is round(255 p).
    diameter: of the image's objects, pixels: the network sees the image rescaled to the diameter
        that its card states, and the answer comes back in the image's size. "auto": estimated from
        the objects found, see `scale.estimate`. None: the image as it is.
    pixel_size: likewise, by micrometres a pixel and the pixel size that the card states; "file":
        as the image's file states it.
    """

    tile: Pixels | tuple[Pixels, Pixels] | None = None
    batch_size: Pixels | None = None
    memory: Pixels | None = None
    symmetries: Symmetries = "none"
    average: Average = "probabilities"
    blend: Blend = "exact"
    overlap: float = Field(0.25, gt=0.0, le=0.5)
    precision: Precision | None = None
    dtype: Stored = "float32"
    diameter: float | Literal["auto"] | None = None
    pixel_size: float | Literal["file"] | None = None

    @field_validator("diameter", "pixel_size", mode="before")
    @classmethod
    def _positive(cls, value: Any, field: ValidationInfo) -> Any:
        word = {"diameter": "auto", "pixel_size": "file"}[str(field.field_name)]
        if value is None or value == word:
            return value
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = 0.0
        if not 0 < number < inf:
            raise ValueError(f'expected a number above 0, or "{word}"')
        return number

    @property
    def rescales(self) -> bool:
        """Whether the network may see an image at another scale."""
        return self.diameter is not None or self.pixel_size is not None

    @model_validator(mode="after")
    def _consistent(self) -> PredictOptions:
        if self.symmetries == "rotations7" and self.blend != "exact":
            raise ValueError(
                f'symmetries "rotations7" needs blend "exact", found "{self.blend}": rotated '
                "tiles do not overlap evenly"
            )
        if self.diameter is not None and self.pixel_size is not None:
            raise ValueError("diameter and pixel_size both state the scale: give one")
        return self
