"""A manifest: a CSV table that says which labels belong to which image."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from keras_unet.data.pairs import Problem
from keras_unet.errors import DataError
from pipelines.examples.items import Item

COLUMNS = ("image", "label", "group")
MOST_BYTES = 1 << 30  # of a manifest: some ten million lines
MOST_FIELD = 4096  # characters, as the longest path of Linux


def read_manifest(path: Path) -> tuple[list[Item], list[Problem]]:
    """The items of a manifest, and what is wrong with single lines.

    The first line names the columns: `image`, `label` and, if images belong to groups, `group`.
    Paths are relative to the manifest's folder and stay within it. An item's name is its image's
    path without the ending.

    Raises:
        DataError: the table cannot be read as a whole: missing, too large, no UTF-8, other columns.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror or error})") from error
    if size > MOST_BYTES:
        raise DataError(f"{path}: has {size:,} bytes; expected at most {MOST_BYTES:,}")
    items: list[Item] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for line, row in _rows(path):
        problem = _wrong(row)
        if problem is None:
            image, label = row["image"], row["label"]
            name = str(PurePosixPath(image).with_suffix(""))
            first = seen.setdefault(name, line)
            if first == line:
                items.append(Item(path.parent / image, path.parent / label, name, row["group"]))
                continue
            problem = f"names {image} again, after line {first}", "each name once"
        found, expected = problem
        problems.append(Problem(file=f"{path}, line {line}", found=found, expected=expected))
    if not items:
        raise DataError(f"{path}: lists no image that can be used; expected a line for each")
    return items, problems


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each line's number, from 1, and its fields, without blanks around them."""
    old = csv.field_size_limit(MOST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, strict=True)
            head = [name.strip() for name in next(table, [])]
            if sorted(head) not in (sorted(COLUMNS), sorted(COLUMNS[:2])):
                raise DataError(
                    f"{path}: has the columns {', '.join(head) or 'of an empty file'}; expected "
                    "image,label or image,label,group in its first line"
                )
            for row in table:
                if row:
                    fields = dict(zip(head, (field.strip() for field in row), strict=False))
                    fields = {"group": "", **fields} if len(row) == len(head) else {}
                    yield table.line_num, fields
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8: {error}") from error
    finally:
        csv.field_size_limit(old)


def _wrong(row: dict[str, str]) -> tuple[str, str] | None:
    """(found, expected), or None if the line is right."""
    if not row:
        return "has another number of fields than the first line", "as many"
    for column in COLUMNS[:2]:
        value = row[column]
        if not value:
            return f"names no {column}", "a path"
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in value:
            shown = value.replace("\0", "\\0")
            return f"has the {column} {shown}", "a path within the manifest's folder"
    return None
