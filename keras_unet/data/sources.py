"""Where labelled images come from: files in folders and stacks, or TFRecords."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_unet.data.label_rule import LabelRule
from keras_unet.data.pairs import Pair, Pairs, find_pairs
from keras_unet.data.reading import PairReader, RawPair
from keras_unet.data.record_files import Records, find_records, read_records
from keras_unet.errors import DataError

Source = Pairs | Records


def find_source(images: str | Path, labels: str | Path | None = None) -> Source:
    """The records where `images` is such, as `find_records` tells; else `find_pairs`.

    Raises:
      DataError: see `find_pairs`; also records with labels beside them.
    """
    records = find_records(images)
    if records is None:
        return find_pairs(images, labels)
    if labels is not None:
        raise DataError(
            f"{images}: records hold their labels; expected no labels beside ({labels})"
        )
    return records


def read_source(source: Source | Iterable[Pair], rule: LabelRule) -> Iterator[RawPair]:
    """Every image and its labels, in turn; what fails is told in their `problems`."""
    if isinstance(source, Records):
        yield from read_records(source, rule)
        return
    with PairReader() as reader:
        for pair in source:
            yield reader.read(pair, rule)
