"""What `predict_files` can be told: how to predict, and what to write."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from keras_unet.inference.options import PredictOptions

Format = Literal["auto", "png", "tiff", "zarr"]
ObjectFormat = Literal["labels", "csv", "geojson", "rois", "parquet"]


class FileOptions(PredictOptions):
    """The options of `predict`, and these.

    probabilities: also write them, in `dtype`.
    threshold: foreground where its probability is above this; for two classes only.
    format: of the masks. "auto": Zarr for Zarr; TIFF for stacks, for images with a known pixel
        size, for more than 2**26 pixels and for label values beyond 65,535; else PNG.
    overlays: draw the masks over the images, scaled down to `preview` pixels.
    preview: longest side of an overlay.
    objects: kinds of files to write of the mask's connected components; see `write_objects`. One
        image at a time is in memory for it.
    border: the class of the lines between touching objects, which these grow into.
    """

    probabilities: bool = False
    threshold: float | None = Field(None, ge=0.0, le=1.0)
    format: Format = "auto"
    overlays: bool = True
    preview: int = Field(2048, ge=16)
    objects: tuple[ObjectFormat, ...] = ()
    border: str | None = None

    @field_validator("objects")
    @classmethod
    def _each_once(cls, value: tuple[ObjectFormat, ...]) -> tuple[ObjectFormat, ...]:
        if len(set(value)) != len(value):
            raise ValueError("expected each kind of file once")
        return value

    def prediction(self, **instead: Any) -> PredictOptions:
        """The options of the prediction itself, in float32: the mask is decided before rounding.

        Args:
            instead: values of other options than those set.
        """
        values = {name: getattr(self, name) for name in PredictOptions.model_fields}
        return PredictOptions(**{**values, "dtype": "float32", **instead})

    def identity(self) -> dict[str, Any]:
        """What a result depends on: all but how much memory and how many tiles at once."""
        found = self.model_dump(mode="json", exclude={"memory", "batch_size"})
        return found if self.probabilities else {k: v for k, v in found.items() if k != "dtype"}
