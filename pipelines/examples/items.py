"""Items of a source: image files with their label files, none of them opened.

A source is a folder with `images/` and `labels/`, or a manifest: a CSV table that says which labels
belong to which image.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from keras_unet.data import EXTENSIONS, Problem, match_files, stem_of
from keras_unet.errors import DataError

MANIFEST = ".csv"
COLUMNS = ("image", "label", "group")  # of a manifest
MOST_BYTES = 1 << 30  # of a manifest: some ten million lines
MOST_FIELD = 4096  # characters, as the longest path of Linux
FIRST = 10  # problems that a message names


class Item(NamedTuple):
    """An image file, or stack, its labels, its name and its group, "" if it says none."""

    image: Path
    label: Path | None
    name: str
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """The items of a source, what stands in the way of others, and all its files."""

    items: tuple[Item, ...]
    problems: tuple[Problem, ...]
    files: tuple[Path, ...]


def list_source(base: str, pattern: str) -> Listing:
    """Lists what a split's pattern means: a manifest, or a folder with `images/` and `labels/`.

    Args:
        base: TFX's `input_base`.
        pattern: below it, with span and version filled in. TFX's own way to say which files are
            read, so that its span search and its fingerprints work: `*/*` is every file in the
            folders of `base`, `span-3/*/*` in those of `span-3`, `manifest.csv` is a manifest.

    Raises:
        DataError: nothing is there, or the manifest cannot be read.
    """

    fixed = []
    for part in Path(pattern).parts:
        if re.search(r"[*?[]", part):
            break
        fixed.append(part)
    place = Path(base, *fixed)
    if place.suffix.lower() == MANIFEST:
        items, problems = read_manifest(place)
        files = [place, *_files(items)]
        return Listing(tuple(items), tuple(problems), tuple(files))
    if not place.exists():
        raise DataError(f"{place}: does not exist; expected the images of data.images")
    if not (place / "images").is_dir():
        raise DataError(
            f"{place}: holds no folder images/; expected images/ and labels/, or a manifest "
            "image,label,group in a file *.csv"
        )
    matched = match_files(place)
    items = [Item(image, label, stem_of(image)) for image, label in matched.files]
    files = [path for part in ("images", "labels") for path in (place / part).glob("*.*")]
    files = [p for p in files if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")]
    return Listing(tuple(items), matched.problems, tuple(files))


def fingerprint(files: Sequence[Path]) -> str:
    """Changes when a file comes, goes, or gets other bytes: of names, sizes and times in ns.

    TFX's own knows neither names nor fractions of a second, and of a manifest only the table.
    """
    digest = hashlib.sha256()
    total = 0
    for path in sorted(files):
        try:
            found = path.stat()
            size, time = found.st_size, found.st_mtime_ns
        except OSError:
            size, time = -1, -1  # a file of a manifest that is missing
        total += max(size, 0)
        digest.update(os.fsencode(path) + f"\0{size}\0{time}\n".encode())
    return f"num_files:{len(files)},total_bytes:{total},sha256:{digest.hexdigest()[:32]}"


def listed_lines(problems: Sequence[Problem]) -> str:
    """The first of them, one a line, and how many there are."""
    lines = "".join(f"\n  - {problem}" for problem in problems[:FIRST])
    return lines + (f"\n  - … ({len(problems)} in all)" if len(problems) > FIRST else "")


def _files(items: Sequence[Item]) -> list[Path]:
    return [path for item in items for path in (item.image, item.label) if path is not None]


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
