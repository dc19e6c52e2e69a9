"""What a source lists: image files with their label files, none of them opened."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from keras_unet.data.images import EXTENSIONS
from keras_unet.data.pairs import Problem, match_files, stem_of
from keras_unet.errors import DataError

MANIFEST = ".csv"
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
    from pipelines.examples.manifest import read_manifest

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
