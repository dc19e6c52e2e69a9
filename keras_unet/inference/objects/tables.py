"""Tables of objects as CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects.measured import ObjectSlice
from keras_unet.inference.objects.measurements import Table


class TableSink:
    """One table of all slices, written at the end by `write(path, table)`."""

    def __init__(self, path: Path, write: Callable[[Path, Table], None]) -> None:
        self._path, self._write = path, write
        self._tables: list[Table] = []

    def add(self, objects: ObjectSlice) -> None:
        self._tables.append(objects.table)

    def finish(self) -> None:
        self._write(self._path, stacked(self._tables))

    def close(self) -> None:
        self._tables.clear()


def stacked(tables: Sequence[Table]) -> Table:
    """The rows of one table after those of the other.

    Raises:
        DataError: their columns differ.
    """
    for table in tables[1:]:
        if list(table) != list(tables[0]):
            raise DataError(
                f"slices have different measurements: {', '.join(tables[0])} and "
                f"{', '.join(table)}; expected an image of the same channels, or none, for each"
            )
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def write_csv(path: Path, table: Table) -> None:
    """UTF-8, commas, a line of names; NaN as empty.

    Floats have 6 significant digits, but at least 2 places: of an object whose outline is uncertain
    by a pixel the rest says nothing. Parquet keeps them whole.
    """
    columns = [_texts(column) for column in table.values()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*columns, strict=True))


def write_parquet(path: Path, table: Table) -> None:
    """The columns with their types.

    Raises:
        ConfigError: the package pyarrow is not installed.
    """
    require_pyarrow()
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(table), path)


def require_pyarrow() -> None:
    """Says what to install, before any work is done.

    Raises:
        ConfigError: the package pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Parquet needs the package pyarrow, which is not installed: "
            "pip install 'unet-keras[parquet]', or ask for csv"
        ) from error


def _texts(column: np.ndarray) -> list[str]:
    if column.dtype.kind == "f":
        return ["" if np.isnan(value) else _rounded(value) for value in column.tolist()]
    return [str(value) for value in column.tolist()]


def _rounded(value: float) -> str:
    if 1e4 <= abs(value) < 1e15:
        return str(round(value, 2)).removesuffix(".0")
    return f"{value:.6g}"
