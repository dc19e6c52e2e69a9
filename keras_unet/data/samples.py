"""From paths to checked samples in memory: what training, evaluation and prediction start from."""

from __future__ import annotations

from pathlib import Path

from keras_unet.data.check import check_and_read
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.reading import Sample as Sample
from keras_unet.data.report import DataReport
from keras_unet.data.sources import find_source


def load_samples(
    images: str | Path,
    labels: str | Path | None = None,
    rule: LabelRule | None = None,
    *,
    need_labels: bool = False,
    for_scoring: bool = False,
) -> tuple[list[Sample], DataReport]:
    """Finds, reads and checks a data set; each file is read once.

    Args:
      images, labels: as in `find_pairs`: a folder with `images/` and `labels/`, two folders, two
        stacks, or images alone. Or records, as in `find_records`, without `labels`.
      rule: what label values mean; default `LabelRule()`: classes.
      need_labels: images alone are refused.
      for_scoring: not for training: a set of background alone is accepted.

    Returns:
      The samples in natural order of their names, and the report (its `notes` are worth showing).
      For instance labels, `classes` is `instances > 0`; touching cells are not separated here.

    Raises:
      DataError: the check found problems; the message lists all of them.
    """
    samples, report = check_and_read(
        find_source(images, labels), rule, need_labels=need_labels, for_scoring=for_scoring
    )
    report.raise_if_bad()
    return samples, report
