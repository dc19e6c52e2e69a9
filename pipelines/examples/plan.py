"""Plan of splits and shards: decided by the images' names alone, before any is read."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_unet.data import Pair, Problem, natural_key, pairs_of_files
from keras_unet.errors import DataError
from keras_unet.training import group_of
from pipelines.examples.items import Item, Listing
from pipelines.examples.options import ExampleOptions

NEIGHBOURS = 8  # pages of a stack that stay together where nothing says what belongs together
THREADS = 16  # that ask files how many pages they have: mostly waiting for the disk
AT_ONCE = 1024  # files that are asked before the next are: a future of each is in memory


def list_pairs(listing: Listing, options: ExampleOptions) -> tuple[list[Pair], tuple[Problem, ...]]:
    """Every image with its labels and group, stacks page by page; and what is no pair."""
    pairs: list[Pair] = []
    problems = list(listing.problems)
    with ThreadPoolExecutor(THREADS) as threads:
        for first in range(0, len(listing.items), AT_ONCE):
            for found, wrong in threads.map(_pages, listing.items[first : first + AT_ONCE]):
                pairs += found
                problems += wrong
    return [_grouped(pair, options.groups) for pair in pairs], tuple(problems)


def split_pairs(
    pairs: Iterable[Pair], buckets: Mapping[str, int], seed: int
) -> dict[str, list[Pair]]:
    """Deals the pairs out by a hash: a pair's split never depends on which others there are.

    Pairs of one group go together. Pages of a stack without groups look like their neighbours:
    they go in blocks.

    Args:
        buckets: name of each split and its share of the hashes, as in TFX's `SplitConfig`.

    Raises:
        DataError: a split gets nothing.
    """
    names, ends, total = list(buckets), [], 0
    for count in buckets.values():
        total += count
        ends.append(total)
    dealt: dict[str, list[Pair]] = {name: [] for name in names}
    units: set[str] = set()
    for pair in pairs:
        unit = _unit(pair)
        units.add(unit)
        dealt[names[bisect(ends, _hash(f"{seed}/{unit}") % total)]].append(pair)
    empty = [name for name in names if not dealt[name]]
    if empty:
        raise DataError(
            f"the split {' and '.join(empty)} gets none of {sum(map(len, dealt.values()))} images "
            f"in {len(units)} groups or single images; expected some in each: give more images, "
            "another share, other groups, or another seed"
        )
    return dealt


def make_shards(pairs: Sequence[Pair], per_shard: int) -> list[list[Pair]]:
    """Shards of nearly equal size, each a random sample; pages of a stack in order in each."""
    ordered = sorted(pairs, key=lambda pair: _hash(pair.name))
    count = max(1, -(-len(ordered) // per_shard))
    shards = [ordered[k::count] for k in range(count)]
    return [sorted(shard, key=lambda pair: natural_key(pair.name)) for shard in shards]


def to_lines(pairs: Iterable[Pair]) -> str:
    """Pairs as JSON, one a line."""
    rows = (
        [p.name, str(p.image), p.label and str(p.label), p.image_page, p.label_page, p.group]
        for p in pairs
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def from_lines(text: str) -> Iterator[Pair]:
    """What `to_lines` wrote."""
    for line in text.splitlines():
        name, image, label, *rest = json.loads(line)
        yield Pair(name, Path(image), label and Path(label), *rest)


def _pages(item: Item) -> tuple[list[Pair], list[Problem]]:
    return pairs_of_files(item.image, item.label, item.name, item.group)


def _grouped(pair: Pair, pattern: str | None) -> Pair:
    found = group_of(pair.name, pattern)
    if pair.group or found == group_of(pair.name, None):  # said by the manifest, or no match
        return pair
    return Pair(pair.name, pair.image, pair.label, pair.image_page, pair.label_page, found)


def _unit(pair: Pair) -> str:
    if pair.group:
        return f"group {pair.group}"
    if pair.image_page is None:
        return pair.name
    return f"{pair.name.rpartition(':')[0]}:{pair.image_page // NEIGHBOURS}"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
