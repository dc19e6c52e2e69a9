"""Objects as ImageJ ROIs, for Fiji's ROI Manager."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from keras_unet.inference.objects.measured import Color, ObjectSlice
from keras_unet.inference.objects.polygons import Outline

_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # segments of java.awt.geom.PathIterator
_LARGEST = 60535  # ImageJ takes 16-bit numbers beyond this for negative ones


class RoiSink:
    """A zip file of ROIs named by the object's number, in stacks "slice-number" from slice 1."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)

    def add(self, objects: ObjectSlice) -> None:
        kinds = objects.table["class"].tolist()
        prefix = "" if objects.number is None else f"{objects.number + 1:04d}-"
        for outline, kind in zip(objects.outlines, kinds, strict=True):
            name = f"{prefix}{outline.label:04d}"
            roi = to_roi(outline, name, color=objects.colors[kind], slice_number=objects.number)
            self._archive.writestr(f"{name}.roi", roi.tobytes())

    def finish(self) -> None:
        self._archive.close()

    def close(self) -> None:
        self._archive.close()


def to_roi(
    outline: Outline,
    name: str,
    *,
    color: Color,
    slice_number: int | None = None,
) -> ImagejRoi:
    """The object as a ROI with exactly its pixels.

    A single polygon without holes becomes a traced ROI, as the wand tool makes it. Holes and
    several parts need a composite ROI, whose rings fill by the even-odd rule.

    Args:
        slice_number: from 0, in a stack; None: the ROI belongs to no slice.
    """
    rings = [ring for polygon in outline.polygons for ring in polygon]
    corners = np.concatenate(rings)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    roi = ImagejRoi(name=name, stroke_color=bytes((255, *color)))
    roi.top, roi.left, roi.bottom, roi.right = top, left, bottom, right
    if slice_number is not None:
        roi.position = slice_number + 1
    if len(rings) > 1:
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings])
        roi.shape_roi_size = roi.multi_coordinates.size
    else:
        roi.roitype = ROI_TYPE.TRACED
        roi.n_coordinates = len(corners)
        roi.integer_coordinates = corners - np.array([left, top], np.int32)
        if max(right, bottom) > _LARGEST:
            roi.options |= ROI_OPTIONS.SUB_PIXEL_RESOLUTION
            roi.subpixel_coordinates = corners.astype(np.float32)
    return roi


def _path(ring: np.ndarray) -> np.ndarray:
    """MOVETO x y, LINETO x y, …, CLOSE; float32, in image coordinates."""
    steps = np.column_stack([np.full(len(ring), _LINE), ring]).astype(np.float32)
    steps[0, 0] = _MOVE
    return np.append(steps.ravel(), np.float32(_CLOSE))
