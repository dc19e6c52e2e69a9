"""MaskInferrer: TFX's BulkInferrer for folders of new images, on Beam.

TFX's own takes records and a signature, and writes PredictionLogs: each holds the whole request
again, an image must fit in one message, and what comes out is no file that a person or Fiji opens.
`segment_examples` would run there; but new images are files, of any size and kind that `predict`
reads (stacks, OME-TIFF, Zarr). So each file is one element, segmented as `predict_files` does it,
window by window, and masks are files.
"""

# no `from __future__ import annotations`: TFX reads the annotations of a component as objects

import csv
import hashlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from tfx import v1 as tfx
from tfx.components.util import model_utils
from tfx.dsl.component.experimental.annotations import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
)
from tfx.dsl.io import fileio
from tfx.types import system_executions
from tfx.types.standard_artifacts import InferenceResult, Model, ModelBlessing

from keras_unet.data import natural_key
from keras_unet.disk import replacing
from keras_unet.errors import DataError
from keras_unet.inference import FileOptions, FilePredictor, class_pages, find_inputs, to_instances
from keras_unet.serving import mask_values
from keras_unet.settings import validated
from pipelines import models

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "summary": ("image", "page", "mask", "height", "width", "foreground", "objects"),
    "failed": ("image", "error"),
}


@tfx.dsl.components.component(component_annotation=system_executions.Transform, use_beam=True)
def MaskInferrer(
    model: InputArtifact[Model],
    masks: OutputArtifact[InferenceResult],
    images: Parameter[str],
    fingerprint: Parameter[str],
    model_blessing: InputArtifact[ModelBlessing] = None,  # type: ignore[assignment]
    options: Parameter[str] = "{}",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Segments every image of a folder, where the model is blessed.

    Args:
        model: of the Trainer. model_blessing: without one, the model need not be blessed.
        masks: `masks/` (as `predict` writes them), `summary.csv` (a line an image: size, share of
            foreground, regions), `failed.csv` (files that could not be read, and why). Properties
            `images`, `failed`.
        images: folder, as `keras-unet predict` takes it; workers must see it, and the output.
        fingerprint: `images_fingerprint` of it, so that TFX's cache sees new images; "": not known,
            as where the pipeline was defined on a machine that does not see them.
        options: of `predict_files`, as JSON.

    Raises:
        DataError: the folder holds no image, changed meanwhile, or no image could be segmented.
        ConfigError: an option is unknown.
    """
    if model_blessing is not None and not model_utils.is_model_blessed(model_blessing):
        masks.set_int_custom_property("images", 0)
        masks.set_string_custom_property("reason", "the model is not blessed")
        logging.getLogger("absl").warning("BulkInferrer: the model is not blessed")
        return
    if fingerprint and images_fingerprint(images) != fingerprint:
        raise DataError(f"{images}: changed since the pipeline was defined; run it again")
    validated(FileOptions, json.loads(options))
    files = [str(path) for path in find_inputs(images)]
    output = models.mounted(masks.uri)
    with beam_pipeline as pipeline:
        found = (
            pipeline
            | "Files" >> beam.Create(files)
            | "Spread" >> beam.Reshuffle()
            | "Segment" >> beam.ParDo(Segment(model.uri, f"{output}/masks", options))
        )
        for kind in COLUMNS:
            _ = (
                found
                | f"Only {kind}" >> beam.Filter(_is, kind)
                | f"Lines {kind}" >> beam.Map(_line)
                | f"Write {kind}"
                >> beam.io.WriteToText(
                    f"{output}/{kind}", file_name_suffix=".csv", shard_name_template=""
                )
            )
    rows = {kind: _finish(f"{output}/{kind}.csv", header) for kind, header in COLUMNS.items()}
    if len(rows["failed"]) == len(files):
        name, error = rows["failed"][0]
        raise DataError(f"none of {len(files)} files could be segmented; {name}: {error}")
    masks.set_int_custom_property("images", len(rows["summary"]))
    masks.set_int_custom_property("failed", len(rows["failed"]))


def images_fingerprint(images: str) -> str:
    """A hash of the names, sizes and times of a folder's images.

    Raises:
        DataError: it holds none.
    """
    found = hashlib.blake2b(digest_size=16)
    for path in find_inputs(images):
        parts = sorted(path.rglob("*")) if path.is_dir() else [path]
        for part in parts:
            held = part.stat()
            found.update(f"{part}\0{held.st_size}\0{held.st_mtime_ns}\0".encode())
    return found.hexdigest()


class Segment(beam.DoFn):
    """A file -> ("summary", row) for each image in it, or ("failed", (file, why)).

    Each worker loads the model once; masks appear in `output` complete.
    """

    def __init__(self, uri: str, output: str, options: str) -> None:
        self._uri, self._output, self._options = uri, output, options
        self._predictor: Any = None

    def setup(self) -> None:
        """Loads the model."""
        with models.local_copy(f"{self._uri}/{models.KERAS}") as folder:
            options = json.loads(self._options)
            self._predictor = FilePredictor(folder / models.FILE, **options).load()

    def process(self, file: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Segments a file; see `predict_files` for what is written."""
        path = Path(file)
        with tempfile.TemporaryDirectory() as folder:
            try:
                (mask,) = self._predictor(path, folder, say=logging.getLogger("absl").info).written
            except DataError as error:
                yield "failed", (path.name, str(error))
                return
            card = self._predictor.card
            background = None if card.decoding else int(mask_values(card)[0])
            for page, row in enumerate(_measured(mask, background)):
                yield "summary", (path.name, page, mask.name, *row)
            with models.local_output(self._output) as output:
                for made in Path(folder).glob("[!.]*"):
                    _move(made, output)


def _measured(answer: Path, background: int | None) -> Iterator[tuple[Any, ...]]:
    """Height, width, share of foreground and number of objects of each image.

    background: the value in a mask, whose connected regions are counted; None: numbered objects.
    """
    for pixels in class_pages(answer):
        found = pixels != (background or 0)
        objects = pixels if background is None else to_instances(found)
        yield *found.shape, round(float(found.mean()), 6), int(objects.max())


def _move(made: Path, output: Path) -> None:
    """Into a folder, perhaps on another disk: there under its name when it is complete."""
    target = output / made.name
    with replacing(target) as beside:
        shutil.move(made, beside)
        if target.is_dir():  # of a worker that was killed after this
            shutil.rmtree(target)


def _is(row: tuple[str, Any], kind: str) -> bool:
    return row[0] == kind


def _line(row: tuple[str, Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(row[1])
    return text.getvalue()


def _finish(uri: str, header: Sequence[str]) -> list[list[str]]:
    """Sorts a table by its first columns and puts its header on; returns its rows."""
    with fileio.open(uri) as file:
        rows = list(csv.reader(io.StringIO(file.read(), newline="")))
    rows.sort(key=lambda row: [natural_key(cell) for cell in row[:2]])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    with fileio.open(uri, "w") as file:
        file.write(text.getvalue())
    return rows
