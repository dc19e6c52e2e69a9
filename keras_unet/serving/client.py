"""Client of a server that speaks TensorFlow Serving's protocol: `Client`, and files through it."""

from __future__ import annotations

import io
import itertools
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from keras_unet.data.images import ImageFile, count_pages
from keras_unet.data.pairs import match_files
from keras_unet.data.stored_pixels import NODATA
from keras_unet.disk import replacing
from keras_unet.errors import ConfigError, DataError, ServingError
from keras_unet.inference import tiles
from keras_unet.inference.ownership import read_written, recorded, refuse_taken
from keras_unet.models.decoding import Decoding
from keras_unet.pictures import save_mask, save_png
from keras_unet.remote_path import local_path
from keras_unet.serving.protocol.objects import (
    DECODING,
    FULL,
    OBJECTS,
    PROBABILITIES,
    decoding_of_answer,
    find,
)
from keras_unet.serving.protocol.tensors import as_tensor, file_bytes
from keras_unet.serving.transports import Grpc, Passing, connect

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between two tries
_TILES = {True: 2048, False: 768}  # pixels a side of one request: gRPC, and REST with its text
_NUMBERS = {True: 15_000_000, False: 3_000_000}  # of one request: 60 MB, which servers take
TILING = "tiling"  # the signature that says what a model needs of tiles
_ABSENT = ("FAILED_PRECONDITION", "INVALID_ARGUMENT")  # no such signature, by gRPC and by REST
_ELSEWHERE = (*_ABSENT, "OUT_OF_RANGE", "RESOURCE_EXHAUSTED")  # more than the server is there for


class Client:
    """A connection to TensorFlow Serving or `keras-unet serve`; thread-safe over gRPC.

    Args:
        url: grpc://HOST:PORT, grpcs:// (TLS), http:// or https://. Without a port gRPC means 8500,
            HTTP 80 and HTTPS 443, as in any URL; IPv6 addresses are in brackets.
        token: the bearer token of `keras-unet serve --token-file`; send it over TLS only.
        certificate: PEM of the authority that signed the server's certificate; None: the
            system's.
        client_certificate, client_key: PEM, for a server that asks clients for a certificate.
        seconds: deadline of one call, retries included; over REST an answer that has begun to
            come is read to its end.
        retries: how often a call is repeated that found the server busy or away; the wait
            doubles, with jitter.

    Raises:
        ConfigError: the URL is none of these, or a TLS file cannot be used; says which and why.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        certificate: str | Path | None = None,
        client_certificate: str | Path | None = None,
        client_key: str | Path | None = None,
        seconds: float = 60.0,
        retries: int = 4,
    ) -> None:
        if seconds <= 0 or retries < 0:
            raise ConfigError(f"seconds {seconds} must be positive, retries {retries} at least 0")
        if (client_certificate is None) != (client_key is None):
            raise ConfigError("a client's certificate needs its key; found one of them")
        self._transport = connect(
            url,
            token=token,
            authority=None if certificate is None else Path(certificate),
            pair=(Path(client_certificate), Path(client_key))
            if client_certificate is not None and client_key is not None
            else None,
        )
        self._seconds = seconds
        self._retries = retries
        self._without: set[str] = set()  # models whose server does not find objects

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def status(self, model: str) -> list[dict[str, Any]]:
        """The model's versions: [{"version": int, "state": "AVAILABLE" …, "error": str}].

        Raises:
            ServingError: the server's refusal; `.code` is its name, as "NOT_FOUND".
        """
        return self._tried(lambda seconds: self._transport.status(model, seconds))

    def run(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = "serving_default",
        *,
        version: int | None = None,
        label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Any signature: {input: array} -> {output: array}; the same over either protocol.

        Args:
            inputs: arrays, or lists of numbers or strings; a string is bytes, text, or a `Path`
                whose file is sent. Python's floats are sent as float32, its integers as int32;
                an array of another type than the signature's is refused over gRPC.

        Returns:
            {output: array} of the signature's types; strings are object arrays of bytes.

        Raises:
            DataError: an input is no array of numbers or strings.
            ServingError: the server's refusal.
        """
        if version is not None and label is not None:
            raise ConfigError("give a version or a label, not both")
        spec = model, version, label
        arrays = {name: as_tensor(name, value) for name, value in inputs.items()}
        return self._tried(lambda left: self._transport.predict(spec, signature, arrays, left))

    def segment(
        self,
        model: str,
        images: Sequence[bytes | bytearray | str | os.PathLike[str] | np.ndarray],
        *,
        version: int | None = None,
        label: str | None = None,
    ) -> list[np.ndarray]:
        """Masks with the training labels' values (two classes: 0 and 255).

        Args:
            images: PNG or JPEG files, as bytes or by their paths, or uint8 or uint16 arrays
                [H, W], [H, W, 1] or [H, W, 3] (16 bits: grey only), of any sizes.

        Returns:
            One [H, W] uint8 or uint16 an image.

        Raises:
            ServingError: the server's refusal.
            DataError: an array that a PNG cannot hold, a file that cannot be read, or no list.
        """
        given = {"image_bytes": _files(images)}
        (masks,) = self.run(model, given, "segment_bytes", version=version, label=label).values()
        return [_read(one) for one in masks]

    def objects(
        self,
        model: str,
        images: Sequence[bytes | bytearray | str | os.PathLike[str] | np.ndarray],
        *,
        version: int | None = None,
        label: str | None = None,
    ) -> list[np.ndarray]:
        """Numbered objects by a model of instance labels, found as its card says.

        `keras-unet serve` finds them; where it will not (another server, more objects than it can
        number, an image too large for it) they are found here in the model's probabilities, which
        gives the same: that of `keras_unet.segment`, but for pixels whose probability is within
        rounding (1e-5) of the threshold.

        Args:
            images: see `segment`.

        Returns:
            One int32 [H, W] an image: objects 1, 2, … without gaps in reading order, 0 =
            background.

        Raises:
            ServingError: the server's refusal; or the model answers classes.
            DataError: see `segment`.
        """
        given = {"image_bytes": _files(images)}
        if model not in self._without:
            try:
                (found,) = self.run(model, given, OBJECTS, version=version, label=label).values()
                return [_read(one).astype(np.int32) for one in found]
            except ServingError as error:
                if isinstance(error, Passing) or error.code not in _ELSEWHERE:
                    raise
                if f'"{OBJECTS}" not found' in str(error):  # or images would go twice every time
                    self._without.add(model)
        if version is None and label is None:  # or another version could say how
            version = self._newest(model)
        decoding = self.decoding(model, version=version, label=label)
        if decoding is None:
            raise ServingError(
                f"model {model!r} does not say how objects are found (it has no signature "
                f"{DECODING!r}): it answers classes, or an older keras_unet published it; use "
                "segment, or publish it again",
                "FAILED_PRECONDITION",
            )
        answer = self.run(model, given, PROBABILITIES, version=version, label=label)
        return [find(one, decoding) for one in answer["probability_bytes"]]

    def decoding(
        self, model: str, *, version: int | None = None, label: str | None = None
    ) -> Decoding | None:
        """How the objects of an instance model are found in its last class's probabilities.

            decoding = client.decoding("nuclei")       # and so in a huge image, sent in tiles:
            labels = to_instances(client.predict("nuclei", image)[..., -1], **decoding.arguments)

        Returns:
            None: the model does not say, as one of classes.

        Raises:
            ServingError: the server's refusal; or a newer keras_unet published the model.
        """
        request = {"request": np.zeros(1, np.int32)}
        try:
            answer = self.run(model, request, DECODING, version=version, label=label)
        except ServingError as error:
            if error.code not in _ABSENT:
                raise
            return None
        try:
            return decoding_of_answer(answer)
        except ConfigError as error:
            raise ServingError(
                f"model {model!r} finds objects in a way that this keras_unet does not know "
                f"({error}); update it",
                "UNIMPLEMENTED",
            ) from error

    def predict(
        self,
        model: str,
        image: np.ndarray,
        *,
        version: int | None = None,
        label: str | None = None,
        tile: int | None = None,
        depth: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Probabilities of one image; a huge one is sent in tiles that overlap by the context.

        The model is asked how its tiles must lie, so the result equals that of the whole image sent
        at once. Where that cannot be (it normalises by the image's own brightness, or by groups of
        channels), there is a warning.

        Args:
            image: [H, W] or [H, W, C], any number type, grey values as in training.
            tile: most pixels a side sent at once; None: 2048 over gRPC, 768 over REST, or more for
                a network that sees far.
            depth: of the network, or more; for a model that cannot be asked: one that was published
                before there was a signature "tiling".
            progress: called with (tiles done, tiles in all).

        Returns:
            [H, W, K] float32.

        Raises:
            DataError: not an image.
            ConfigError: `tile` is too small for the context.
            ServingError: the server's refusal; or tiles are needed and the model does not say how.
        """
        image = np.asarray(image)
        image = image[..., None] if image.ndim == 2 else image
        if image.ndim != 3 or 0 in image.shape or image.dtype.kind not in "uifb":
            raise DataError(
                f"image of shape {image.shape} and type {image.dtype}: expected numbers [H, W, C]"
            )
        size, binary = image.shape[:2], isinstance(self._transport, Grpc)

        def one(part: np.ndarray) -> np.ndarray:
            inputs = {"images": part[None].astype(np.float32)}
            (out,) = self.run(model, inputs, version=version, label=label).values()
            return out[0]

        if max(size) <= (_TILES[binary] if tile is None else tile):
            return one(image)
        form = self._layout(model, version, label, depth, size)
        if version is None and label is None:  # or a new version could answer for half of the tiles
            version = self._newest(model)
        if tile is None:
            most = math.isqrt(_NUMBERS[binary] // image.shape[2])
            tile = max(_TILES[binary], min(4 * form.context, most), form.smallest)
        rows, columns = (_parts(n, form, tile) for n in size)
        result: np.ndarray | None = None
        for done, (row, column) in enumerate(itertools.product(rows, columns), 1):
            found = one(image[row.read, column.read])
            if result is None:
                result = np.empty((*size, found.shape[-1]), np.float32)
            result[row.kept, column.kept] = found[row.inside, column.inside]
            if progress is not None:
                progress(done, len(rows) * len(columns))
        assert result is not None
        return result

    def _newest(self, model: str) -> int | None:
        """The version that answers who names none; None where nobody says."""
        there = [one["version"] for one in self.status(model) if one["state"] == "AVAILABLE"]
        return max(there, default=None)

    def _layout(
        self,
        model: str,
        version: int | None,
        label: str | None,
        depth: int | None,
        size: tuple[int, ...],
    ) -> tiles.Layout:
        """How the model's tiles must lie: as it says, or as a network of that depth needs."""
        request = {"request": np.zeros(1, np.int32)}
        try:
            needs = self.run(model, request, TILING, version=version, label=label)
            stride, context, exact = (int(needs[key][0]) for key in ("stride", "context", "exact"))
        except (ServingError, KeyError) as error:  # no such signature, or it is of something else
            code = getattr(error, "code", "INVALID_ARGUMENT")
            if code not in _ABSENT:
                raise
            if depth is None:
                raise ServingError(
                    f"model {model!r} does not say how its tiles must lie (it has no signature "
                    f"{TILING!r}: an older keras_unet published it, or another program), so an "
                    f"image of {size[0]} x {size[1]} pixels cannot be sent in tiles: publish it "
                    f"again, give the network's depth (depth=4), or send the image whole "
                    f"(tile={max(size)})",
                    "FAILED_PRECONDITION",
                ) from error
            return tiles.layout(depth, "same", "bilinear")  # the farthest-seeing
        if not exact:
            warnings.warn(
                f"model {model!r} normalises by what is in the image it is given, so tiles give "
                f"other values than the whole: send it whole (tile={max(size)}) if it fits",
                stacklevel=3,
            )
        return tiles.Layout(stride, stride + 2 * context, context, context, 2 * context)

    def _tried(self, call: Callable[[float], Any]) -> Any:
        """Calls with the seconds left; repeats where the server was busy or away."""
        until = time.monotonic() + self._seconds
        for attempt in range(self._retries + 1):
            try:
                return call(max(0.001, until - time.monotonic()))
            except Passing:
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
                if attempt == self._retries or time.monotonic() + wait >= until:
                    raise
                time.sleep(wait)
        raise ServingError("no try was made")  # pragma: no cover


class _Part(NamedTuple):
    """One tile along an axis: what is read of the image, what is kept, and where in the answer."""

    read: slice
    kept: slice
    inside: slice


def _parts(size: int, form: tiles.Layout, largest: int) -> list[_Part]:
    """Tiles of at most `largest` pixels with their context, as far as there is image.

    Beyond the image's own border the model mirrors, as it does for the whole.
    """
    step = size if size <= largest else tiles.abutting(size, form, largest).step
    parts = []
    for start in range(0, size, step):
        stop, first = min(start + step, size), max(start - form.context, 0)
        read = slice(first, min(stop + form.context, size))
        parts.append(_Part(read, slice(start, stop), slice(start - first, stop - first)))
    return parts


def _files(images: Any) -> np.ndarray:
    """The files of a list of images, as an object array of bytes."""
    if isinstance(images, (bytes, bytearray, str, os.PathLike)):
        raise DataError(f"found one {type(images).__name__}; expected a list of images")
    given = np.empty(len(images), object)
    given[:] = [_file(one) for one in images]
    return given


def _read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))


def _file(image: Any) -> bytes:
    """The bytes of an image's file: of what it is, of what is at its path, or as a PNG."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    return file_bytes(image) if isinstance(image, (str, os.PathLike)) else _png(np.asarray(image))


def _png(image: np.ndarray) -> bytes:
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    colour = image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8
    if not (grey or colour) or 0 in image.shape:
        raise DataError(
            f"image of shape {image.shape} and type {image.dtype}: a PNG holds [H, W] uint8 or "
            "uint16, or [H, W, 3] uint8; use predict for others"
        )
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def segment_files(
    client: Client,
    model: str,
    images: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Writes an answer for each image into `output`; pages of a stack are numbered.

    <name>_labels.png by a model of instance labels: its numbered objects, uint16, 0 = background
    (<name>_labels.tif, uint32, where there are more than 65,535). <name>_mask.png by others, with
    the training labels' values, in colours where a viewer shows it (`pictures.save_mask`). See
    `Client.objects` and `Client.segment`.

    Args:
        images: a PNG, JPEG or TIFF file, or a folder of them; 8 bits, or 16 bits grey.
        overwrite: replace whatever has a result's name, but no input; otherwise only results that
            an earlier call left there, unchanged since.
        progress: called with (images done, images in all).
        say: called with what is left out of a folder, and with how objects are found.

    Returns:
        What was written.

    Raises:
        DataError: no image there, one of another kind, two that would share a result's name, or
            results that would replace files of yours; names them.
        ServingError: the server's refusal.
    """
    images, output = Path(images), local_path(output)
    found = match_files(images)
    if found.problems:
        raise DataError("\n".join(map(str, found.problems)))
    for note in found.notes:
        if say is not None:
            say(f"note: {note}")
    files = [image for image, _ in found.files]
    jobs: dict[str, tuple[Path, int | None]] = {}
    for file in files:
        pages = count_pages(file)
        for number in range(pages):
            page = None if pages == 1 else number
            name = file.stem if page is None else f"{file.stem}_{page:04d}"
            if name in jobs:
                raise DataError(f"{file} and {jobs[name][0]} would share the name {name}")
            jobs[name] = file, page
    ask, ends = client.segment, ["_mask.png"]
    if (decoding := client.decoding(model)) is not None:
        ask, ends = client.objects, ["_labels.png", "_labels.tif"]
        if say is not None:
            say(f"Objects: {decoding}")
    names = [name + end for name in jobs for end in ends]
    before = read_written(output)
    allowed = {name: [before[name]] if name in before else [] for name in names}
    refuse_taken(output, allowed, files, overwrite=overwrite)
    written = []
    with recorded(output, names):
        for done, (name, (file, page)) in enumerate(jobs.items(), 1):
            with ImageFile(file) as opened:
                pixels, missing = opened.measured(page)
            if missing is not None:
                raise DataError(
                    f"{file}: {missing.mean():.1%} of the pixels are {NODATA}, which a server "
                    "knows nothing of; predict without --server"
                )
            (answer,) = ask(model, [pixels])
            written.append(output / f"{name}{ends[int(answer.max() > FULL)]}")
            _write(written[-1], answer)
            if progress is not None:
                progress(done, len(jobs))
    return written


def _write(path: Path, answer: np.ndarray) -> None:
    """A mask of uint8 or uint16, or labels of int32, which need the unsigned types of files."""
    if answer.dtype != np.int32:
        save_mask(path, answer)
    elif path.suffix == ".png":
        save_png(path, answer.astype(np.uint16))
    else:
        import tifffile

        with replacing(path) as beside:
            tifffile.imwrite(beside, answer.astype(np.uint32), compression="zlib")
