"""Object numbers as a label image: OME-TIFF, compressed, with the pixel size."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from keras_unet.errors import DataError
from keras_unet.inference.objects.measured import ObjectSlice

_TILE = 512  # pixels; images with a longer side are written in tiles
_CLASSIC_LIMIT = 1 << 31  # uncompressed bytes from which on BigTIFF is written


class _Slice(NamedTuple):
    """Kept until the last one, when the type of all is known; in stacks compressed."""

    data: np.ndarray | bytes
    dtype: np.dtype[Any]

    def plane(self, shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(self.data, bytes):
            return np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(shape)
        return self.data


class LabelSink:
    """uint16, or uint32 where a number exceeds 65,535; a stack has the axes ZYX."""

    def __init__(
        self, path: Path, pixel_size: tuple[float, float] | None, depth: float | None = None
    ) -> None:
        self._path, self._pixel_size, self._depth = path, pixel_size, depth
        self._slices: list[_Slice] = []
        self._shape: tuple[int, ...] | None = None
        self._stack = False

    def add(self, objects: ObjectSlice) -> None:
        instances = objects.instances
        if self._shape not in (None, instances.shape):
            raise DataError(
                f"slice {len(self._slices)} is {instances.shape}, the first {self._shape}; "
                "expected equal sizes"
            )
        self._shape, self._stack = instances.shape, objects.number is not None
        largest = int(objects.table["label"].max(initial=0))
        if largest > np.iinfo(np.uint32).max:
            raise DataError(f"label {largest} is too large for a label image; expected < 2^32")
        dtype = np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
        if self._stack:
            packed = zlib.compress(instances.astype(dtype).tobytes(), 1)
            self._slices.append(_Slice(packed, dtype))
        else:
            self._slices.append(_Slice(instances, dtype))

    def finish(self) -> None:
        assert self._shape is not None
        dtype = max((part.dtype for part in self._slices), key=lambda kind: kind.itemsize)
        shape = (len(self._slices), *self._shape) if self._stack else self._shape
        metadata: dict[str, Any] = {"axes": "ZYX" if self._stack else "YX"}
        resolution: dict[str, Any] = {}
        if self._pixel_size is not None:
            height, width = self._pixel_size
            metadata |= {"PhysicalSizeY": height, "PhysicalSizeX": width}
            metadata |= {"PhysicalSizeYUnit": "µm", "PhysicalSizeXUnit": "µm"}
            if self._stack and self._depth is not None:
                metadata |= {"PhysicalSizeZ": self._depth, "PhysicalSizeZUnit": "µm"}
            resolution = {"resolution": (1e4 / width, 1e4 / height), "resolutionunit": "CENTIMETER"}
        tiled = max(self._shape) > _TILE
        tifffile.imwrite(
            self._path,
            self._planes(dtype, _TILE if tiled else None),
            shape=shape,
            dtype=dtype,
            ome=True,
            bigtiff=int(np.prod(shape)) * dtype.itemsize > _CLASSIC_LIMIT,
            photometric="minisblack",
            compression="zlib",
            predictor=False,
            tile=(_TILE, _TILE) if tiled else None,
            metadata=metadata,
            **resolution,
        )

    def close(self) -> None:
        self._slices.clear()

    def _planes(self, dtype: np.dtype[Any], tile: int | None) -> Iterator[np.ndarray]:
        """The slices one by one, or the tiles of each."""
        assert self._shape is not None
        for part in self._slices:
            plane = part.plane(self._shape)
            if tile is None:
                yield plane.astype(dtype)
                continue
            for top in range(0, self._shape[0], tile):
                for left in range(0, self._shape[1], tile):
                    block = plane[top : top + tile, left : left + tile]
                    missing = ((0, tile - block.shape[0]), (0, tile - block.shape[1]))
                    yield np.pad(block.astype(dtype), missing)
