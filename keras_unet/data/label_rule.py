"""Label rule: what the numbers in a label image mean, classes or one number for each object.

Pixels alone do not distinguish the two for certain, so it is a setting, whose default (classes)
refuses what looks like objects rather than train on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote
from typing import Literal

import numpy as np
from pydantic import model_validator

from keras_unet.errors import DataError
from keras_unet.settings import Frozen

LabelKind = Literal["semantic", "instances"]
IGNORED = -1  # the class of pixels that count neither in the loss nor in a score
INSTANCES = 'data.label_kind = "instances" (--instances)'
MOST_UNSTATED = 5  # up to so many classes are accepted unstated; beyond, objects are likelier


class LabelMapping(Frozen):
    """How stored label values become classes and objects, settled for one data set."""

    kind: LabelKind
    values: tuple[int, ...]  # semantic: the stored value of each class; instances: empty
    ignore: int | None = None  # the stored value that becomes IGNORED
    split: bool = False  # instances stored as a mask: its connected components are the objects
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.values) if self.kind == "semantic" else 2

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """Stored labels, int [H, W], to class numbers int32 [H, W]; ignored pixels are -1.

        Raises:
          DataError: a value that is no class.
        """
        if self.kind == "instances":
            out = (labels > 0).astype(np.int32)
        else:
            order = np.argsort(self.values)
            sorted_values = np.asarray(self.values)[order]
            at = np.minimum(np.searchsorted(sorted_values, labels), len(order) - 1)
            out = order[at].astype(np.int32)
            strange = sorted_values[at] != labels
            if self.ignore is not None:
                strange &= labels != self.ignore
            if strange.any():
                raise DataError(
                    f"found label values {_listed(np.unique(labels[strange]).tolist())}; "
                    f"expected {_listed(self.values)}"
                )
        if self.ignore is not None:
            out[labels == self.ignore] = IGNORED
        return out

    def instances(self, labels: np.ndarray) -> np.ndarray | None:
        """Stored labels to object numbers int32 [H, W] (0 = none); None for semantic labels."""
        if self.kind == "semantic":
            return None
        if self.ignore is not None:
            labels = np.where(labels == self.ignore, 0, labels)
        if self.split:
            from scipy.ndimage import label as components

            return components(labels > 0, output=np.int32)[0]
        return labels.astype(np.int32, copy=False)

    def as_rule(self) -> LabelRule:
        """The rule that reads another set (validation, test) just as this one was read."""
        if self.kind == "semantic" and self.values in ((0, 1), (0, 255)):
            return LabelRule(num_classes=2, ignore=self.ignore)  # a mask is written either way
        values = self.values if self.kind == "semantic" else None
        return LabelRule(kind=self.kind, values=values, ignore=self.ignore)


class LabelRule(Frozen):
    """What the user states of the labels; `resolve` settles the rest from the values found.

    kind "semantic" (default): each number is a class. 0…K-1 are taken as they are up to five
    classes, 0 and 255 become 0 and 1 (with a note); anything else needs `values` (the stored
    value of class 0, of class 1, …) or `num_classes` (the values are 0…num_classes-1).
    kind "instances": each number above 0 is one object; classes are background and cell.
    `ignore`: the stored value of pixels that shall not count.
    Messages call these settings by their names in a training configuration: data.label_kind,
    data.label_values, data.num_classes, data.label_ignore.
    """

    kind: LabelKind = "semantic"
    values: tuple[int, ...] | None = None
    num_classes: int | None = None
    ignore: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LabelRule:
        if self.kind == "instances":
            if self.values is not None or self.num_classes not in (None, 2):
                raise ValueError(
                    "instance labels have two classes, background and cell; found "
                    f"values={self.values}, num_classes={self.num_classes}: leave both out"
                )
            return self
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"num_classes is {self.num_classes}; expected 2 or more")
        if self.values is not None:
            if len(self.values) < 2 or len(set(self.values)) < len(self.values):
                raise ValueError(f"values is {self.values}; expected 2 or more different numbers")
            if self.num_classes not in (None, len(self.values)):
                raise ValueError(
                    f"values lists {len(self.values)} classes, num_classes is {self.num_classes}"
                )
            if self.ignore in self.values:
                raise ValueError(f"ignore is {self.ignore}, which values lists as a class")
        return self

    def stated(self) -> tuple[int, ...] | None:
        """The values that the user allows, or None if that is left to what is found."""
        if self.values is not None:
            return self.values
        return None if self.num_classes is None else tuple(range(self.num_classes))

    def resolve(self, found: Iterable[int]) -> LabelMapping:
        """Settles the mapping for a set in which the distinct label values `found` occur.

        Raises:
          DataError: the values do not fit the rule, or need one; the message lists the ways out.
        """
        present = sorted({int(v) for v in found} - {self.ignore})
        return self._instances(present) if self.kind == "instances" else self._semantic(present)

    def _instances(self, present: list[int]) -> LabelMapping:
        if present and present[0] < 0:
            raise DataError(
                f"found label values {_listed(present)}; expected 0 for background and numbers "
                "above 0 for objects"
            )
        mask = set(present) in ({0, 1}, {0, 255}, {1}, {255})
        notes = (
            (
                f"labels hold only {_listed(present)}, no numbers of objects: each 4-connected "
                "region is taken as one object",
            )
            if mask
            else ()
        )
        return LabelMapping(
            kind="instances", values=(), ignore=self.ignore, split=mask, notes=notes
        )

    def _semantic(self, present: list[int]) -> LabelMapping:
        binary = set(present) in ({0, 255}, {255})
        stated = self.stated()
        if binary and (stated is None or (self.values is None and self.num_classes == 2)):
            note = "label values 0 and 255 are read as classes 0 and 1"
            return self._mapping((0, 255), note)
        if stated is not None:
            strange = sorted(set(present) - set(stated))
            if strange:
                raise DataError(
                    f"found label values {_listed(present)}; expected {_listed(stated)}, as stated"
                )
            absent = sorted(set(stated) - set(present))
            note = f"no pixel has the label value {_listed(absent)}" if absent else ""
            return self._mapping(stated, *([note] if note else []))
        count = len(present)
        contiguous = present == list(range(count))
        if (contiguous and count <= MOST_UNSTATED) or present in ([], [1]):
            return self._mapping(tuple(range(max(count, 2))))
        raise DataError(_ways_out(present, contiguous))

    def _mapping(self, values: tuple[int, ...], *notes: str) -> LabelMapping:
        return LabelMapping(kind="semantic", values=values, ignore=self.ignore, notes=notes)


def _ways_out(present: list[int], contiguous: bool) -> str:
    count, top = len(present), present[-1]
    text = f"found {count} distinct label values, {_listed(present)}: "
    ways = []
    if present[0] >= 0:
        ways.append(f"if each number is one object, set {INSTANCES}")
    if contiguous:
        ways.append(f"if they are classes, set {as_setting('num_classes', count)}")
    elif count <= 16:
        ways.append(f"if they are classes, set {as_setting('label_values', present)}")
    else:
        ways.append("if they are classes, list the value of each in data.label_values")
    lone = top if top > count else present[0]
    if count > 1 and [value for value in present if value != lone] == list(range(count - 1)):
        ignored = as_setting("label_ignore", lone)
        ways.append(f"if {lone} marks pixels that shall not count, set {ignored}")
    return text + "; ".join(ways)


def as_setting(name: str, value: object) -> str:
    """A setting of `data` as a file has it, and as the command line takes it."""
    return f"data.{name} = {value} (--set {quote(f'data.{name}={value}')})"


def _listed(values: Iterable[int]) -> str:
    values = list(values)
    if len(values) > 8:
        return f"{values[0]}…{values[-1]}"
    return ", ".join(map(str, values)) or "nothing"


def default_classes(count: int) -> tuple[str, ...]:
    """Names for `count` classes of which nobody has said what they are."""
    if count == 2:
        return ("background", "foreground")
    return ("background", *(f"class{i}" for i in range(1, count)))
