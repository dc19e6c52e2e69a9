"""Server of the page that shows a network at work: Python's own HTTP server, for this machine only.

It listens on 127.0.0.1, under an address that holds a secret, and the page asks for nothing from
elsewhere. Numbers that a person reads go as JSON, feature maps as PNG when they are looked at.
"""

from __future__ import annotations

import functools
import json
import math
import re
import secrets
import tempfile
import threading
import traceback
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from keras_unet import geometry
from keras_unet.augment.settings import PRESETS, make_settings
from keras_unet.data.images import read_image, read_labels
from keras_unet.data.label_rule import IGNORED
from keras_unet.data.normalization import normalized
from keras_unet.data.synthetic import make_cells
from keras_unet.errors import ConfigError, DataError, KerasUnetError
from keras_unet.explorer import lesson
from keras_unet.explorer.network import Activations, Network, heat_png, histograms, image_png, png
from keras_unet.explorer.pixel import middle, receptive_fields, work_out
from keras_unet.inference.tiles import mirrored
from keras_unet.models.keras_file import Model, Stated, trained_model
from keras_unet.models.plot import FeatureMap, place
from keras_unet.pictures import contrast

ASSETS = Path(__file__).parent / "assets"
SMALL_MODEL = ASSETS / "cells.keras"  # trained by docs/explorer_model.py
# In a checkout the guide lies in docs/; setup.py copies it into an installed package.
GUIDES = (ASSETS / "guide", Path(__file__).parents[2] / "docs")
LARGEST_FILE = 512 * 2**20  # bytes, of an image that a person opens in the page
_TILE = 388  # pixels of the answer that are computed at once: the paper's
_SAME_TILE = 512  # the same where padding keeps the size
_LARGEST_MAP = 4096  # pixels of the longer side of a channel's picture
_OVERVIEW = 1024  # pixels of the longer side of the picture in which a tile is chosen
_BRIGHTEST = 99.5  # percent of the pixels are at most as bright as the brightest shown
_WARPED = 512  # pixels of the part of the image that the augmentation shows
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors http://127.0.0.1:* http://localhost:*"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
# The guide's section on each kind of step, by the anchor of its heading.
SECTIONS = {
    "image": "1-the-task",
    "convolution": "convolution",
    "pooling": "max-pooling",
    "bridge": "4-the-bridge",
    "concatenation": "skip-connections-and-why-they-are-cropped",
    "logits": "6-the-answer-for-each-pixel",
    "pixel": "7-sizes-and-images-of-any-size",
    "learning": "8-the-loss-what-is-a-mistake",
    "augmentation": "augmentation",
    "dropout": "dropout",
    "batch": "batch-normalization",
}

Answer = tuple[str, bytes]  # content type, body


class Session:
    """A network, an image and the tile of it that is looked at.

    Args:
        model: see `trained_model`; None: the small network of made-up cells.
        image: [H, W] or [H, W, C] of any real type; None: made-up cells.
        labels: integers [H, W], or None.
        name: of the image.
        instances: each number in the labels is one object, whatever the model's card says.
        normalization, class_names: of a model whose card does not say it, see `trained_model`.

    Raises:
        DataError, ConfigError: image, labels and model do not fit each other.
    """

    def __init__(
        self,
        model: Model | None = None,
        image: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        *,
        name: str = "image",
        instances: bool = False,
        normalization: Stated = None,
        class_names: str | Sequence[str] | None = None,
    ) -> None:
        trained = trained_model(
            SMALL_MODEL if model is None else model,
            normalization=normalization,
            class_names=class_names,
        )
        self.network = Network(trained)
        self._instances, self._made_up = instances, image is None
        self.lock = threading.RLock()
        self.version = 0
        self.steps: list[dict[str, Any]] = []
        if image is None:
            if labels is not None:
                raise ConfigError("labels are of an image: give that too")
            channels = self.network.form.channels
            if channels != 1:
                raise ConfigError(
                    f"the made-up cells are grey, this model takes {channels} channels: give an "
                    "image"
                )
            image, labels = make_cells((_TILE, _TILE), seed=3)
            name = "made-up cells"
        self.open_image(image, name)
        if labels is not None:
            self.open_labels(labels)
        self._made_up = False  # whose labels are objects, whatever the model was trained on

    # what is looked at

    def open_image(self, image: np.ndarray, name: str) -> None:
        """Shows another image; labels are put away."""
        pixels = np.asarray(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        channels = self.network.form.channels
        if pixels.ndim != 3 or pixels.shape[-1] != channels:
            found = f"{pixels.shape[-1]} channels" if pixels.ndim == 3 else f"shape {pixels.shape}"
            raise DataError(f"{name}: found {found}; this model takes images of {channels}")
        shift, scale = self.network.card.normalization.parameters(pixels)
        measured = pixels[np.isfinite(pixels).all(axis=-1)][:, None]  # [n, 1, C]
        with self.lock:
            self.pixels, self.name = pixels, name
            self._shift, self._scale = shift, scale
            self._low, self._high = contrast(measured)
            self.labels: np.ndarray | None = None
            self._mapping: Any = None
            self._choose_tile_size()
            self.show_tile(*((n - o) // 2 for n, o in zip(pixels.shape, self.size, strict=False)))

    def open_labels(self, labels: np.ndarray) -> None:
        """Shows how well the answer fits these labels."""
        labels = np.asarray(labels)
        if labels.shape != self.pixels.shape[:2] or labels.dtype.kind not in "biu":
            raise DataError(
                f"labels are {labels.dtype} {labels.shape}; expected integers of the image's size "
                f"{self.pixels.shape[:2]}"
            )
        mapping = lesson.mapping_for(self.network.card, labels, self._instances or self._made_up)
        with self.lock:
            self.labels, self._mapping = labels.astype(np.int32), mapping
            self._goal: lesson.Targets | None = None
            self.version += 1

    def _choose_tile_size(self) -> None:
        form = self.network.form
        most = _TILE if form.padding == "valid" else _SAME_TILE
        known = self.network.model.input_shape[1:3]
        self.input = tuple(
            fixed or geometry.input_size(min(n, most), form.depth, form.padding)
            for fixed, n in zip(known, self.pixels.shape[:2], strict=True)
        )
        self.size = geometry.output_size(self.input, form.depth, form.padding)

    def show_tile(self, top: int, left: int) -> None:
        """Computes the tile whose answer begins at a pixel of the image, or as near as it fits."""
        margin = geometry.margin(self.network.form.depth, self.network.form.padding)
        with self.lock:
            room = (max(n - o, 0) for n, o in zip(self.pixels.shape, self.size, strict=False))
            self.origin = tuple(
                min(max(int(o), 0), most) for o, most in zip((top, left), room, strict=True)
            )
            rows, columns = (
                mirrored(o - margin, o - margin + n, size)
                for o, n, size in zip(self.origin, self.input, self.pixels.shape, strict=False)
            )
            self.tile = self.pixels[rows[:, None], columns]
            self._goal = None
            self._compute()

    def _compute(self) -> None:
        given = normalized(self.tile, self._shift, self._scale)
        self.activations: Activations = self.network.run(given)
        self._given = given
        self.version += 1

    @property
    def goal(self) -> lesson.Targets:
        """Classes and weights of the tile; raises ConfigError without labels."""
        if self.labels is None:
            raise ConfigError("there are no labels: open a file of labels, or give --labels")
        if self._goal is None:
            self._goal = lesson.targets(
                self.network.card, self._mapping, self.labels, self.origin, self.size
            )
        return self._goal

    # what the page asks for

    def state(self) -> dict[str, Any]:
        """Everything but pixels and numbers: the model, the image, the stages and their places."""
        card, form = self.network.card, self.network.form
        activations = self.activations
        maps = list(activations.maps.values())
        boxes = place(maps, height=_shown_size, width=_shown_size, gap=22, below=76)
        margin = geometry.margin(form.depth, form.padding)
        return {
            "version": self.version,
            "model": {
                "name": card.name,
                "classes": list(card.classes),
                "parameters": self.network.model.count_params(),
                "padding": form.padding,
                "depth": form.depth,
                "sees": geometry.receptive_field(form.depth, form.upsampling),
            },
            "image": {
                "name": self.name,
                "size": list(self.pixels.shape[:2]),
                "channels": self.pixels.shape[2],
            },
            "tile": {
                "origin": list(self.origin),
                "size": list(self.size),
                "input": list(self.input),
                "margin": margin,
                "chosen": any(n > o for n, o in zip(self.pixels.shape, self.size, strict=False)),
            },
            "labels": self.labels is not None,
            "stages": [
                {
                    **m._asdict(),
                    "box": list(boxes[m.layer]),
                    "title": self._title(m),
                    "guide": SECTIONS["bridge" if m.layer.startswith("bridge") else m.kind],
                    "shown": activations.shown_channel(m.layer),
                }
                for m in maps
            ],
            "sections": SECTIONS,
            "presets": PRESETS,
            "steps": self.steps,
        }

    def _title(self, m: FeatureMap) -> str:
        if m.kind == "convolution":
            name = getattr(self.network.activation(m.layer), "__name__", "activation")
            norm = ", normalization" if self.network.has_norm(m.layer) else ""
            return f"convolution 3×3{norm}, {'ReLU' if name == 'relu' else name}"
        return {
            "image": "the tile that goes in",
            "pooling": "max pooling 2×2",
            "concatenation": "skip connection beside the up-convolution 2×2",
            "logits": "convolution 1×1: one score for each class",
        }[m.kind]

    def channels(self, stage: str) -> dict[str, Any]:
        """The channels of a stage, sorted by energy."""
        m, statistics = self.activations.stage(stage), self.activations.statistics(stage)
        listed = [
            {"channel": c, **statistics[c]._asdict()} for c in self.activations.by_energy(stage)
        ]
        return {"stage": stage, "parts": list(m.channels), "channels": listed}

    def kernel(self, stage: str, channel: int) -> dict[str, Any]:
        """What made a channel: its largest kernels, each of one input channel, and its bias."""
        m = self.activations.stage(stage)
        self.activations.channel(stage, channel)  # checks the number
        layer, own = self.network.layers.get(stage), channel
        if m.kind == "concatenation":
            own -= m.channels[0]
            layer = self.network.layers[f"up{m.level}_upconv"] if own >= 0 else None
        if layer is None or m.kind in ("image", "pooling"):
            return {"kernels": [], "count": 0}
        weights = np.asarray(layer.kernel)
        transposed = type(layer).__name__ == "Conv2DTranspose"
        mine = weights[:, :, own, :] if transposed else weights[..., own]
        order = np.argsort(-np.abs(mine).sum(axis=(0, 1)), kind="stable")[:8]
        return {
            "kernels": [{"channel": int(c), "values": mine[..., c].tolist()} for c in order],
            "count": mine.shape[-1],
            "bias": float(np.asarray(layer.bias)[own]) if layer.use_bias else None,
        }

    def map_png(self, stage: str, channel: int, pixels: int | None) -> bytes:
        """A picture of one channel of a stage, or of the tile itself."""
        if pixels is not None and not 1 <= pixels <= _LARGEST_MAP:
            raise ConfigError(f"pixels is {pixels}; expected 1 to {_LARGEST_MAP}")
        if self.activations.stage(stage).kind == "image":
            return image_png(self.tile, self._low, self._high, pixels)
        values = self.activations.channel(stage, channel)
        return heat_png(values, float(values.min()), float(values.max()), pixels)

    def answer_png(self, kind: int) -> bytes:
        """The probability of class `kind` over the tile's answer."""
        probabilities = self.network.probabilities(self.activations.array("logits"))
        if not 0 <= kind < probabilities.shape[-1]:
            raise ConfigError(f"class is {kind}; expected 0 to {probabilities.shape[-1] - 1}")
        return heat_png(probabilities[..., kind], 0.0, 1.0)

    def pixel(self, y: int, x: int) -> dict[str, Any]:
        """What a pixel of the answer sees, what the network says of it, and what is true."""
        maps = list(self.activations.maps.values())
        fields = receptive_fields(self.network.form, maps, y, x)
        logits = self.activations.array("logits")[y, x]
        found: dict[str, Any] = {
            "y": y,
            "x": x,
            "fields": {name: [list(r) for r in rectangles] for name, rectangles in fields.items()},
            "probabilities": self.network.probabilities(logits).tolist(),
        }
        if self.labels is not None:
            true = int(self.goal.classes[y, x])
            found["true"] = None if true == IGNORED else true
            found["weight"] = float(self.goal.weight[y, x])
        return found

    def work(self, stage: str, channel: int, y: int, x: int) -> dict[str, Any]:
        """How the value of a stage in the middle of what a pixel sees comes about.

        A channel below 0 stands for the one with the largest value there.
        """
        maps = list(self.activations.maps.values())
        self.activations.stage(stage)
        at = middle(receptive_fields(self.network.form, maps, y, x)[stage][0])
        if channel < 0:
            channel = int(np.argmax(np.abs(self.activations.patch(stage, *at, 1, 1)[0, 0])))
        found = work_out(self.network, self.activations, stage, channel, *at)
        if found["kind"] == "image":
            raw = float(self.tile[at][channel])
            found["raw"] = raw if math.isfinite(raw) else None  # JSON has no NaN
            found["shift"], found["scale"] = (
                float(self._shift[channel]),
                float(self._scale[channel]),
            )
        return found

    def learning(self) -> dict[str, Any]:
        """The loss of the tile, and the ranges of its pictures."""
        goal, loss = self.goal, self._loss()
        counted = goal.classes != IGNORED
        if not counted.any():
            raise DataError("no pixel of this tile counts: choose another tile")
        weight = goal.weight[counted]
        return {
            "plain": float(loss[counted].mean()),
            "weighted": float((loss[counted] * weight).sum() / max(weight.sum(), 1e-12)),
            "shown": {what: high for what, (_, high) in self._learning_maps().items()},
            "right": float((self._classes() == goal.classes)[counted].mean()),
            "steps": self.steps,
        }

    def _classes(self) -> np.ndarray:
        probabilities = self.network.probabilities(self.activations.array("logits"))
        return probabilities.argmax(-1)

    def _learning_maps(self) -> dict[str, tuple[np.ndarray, float]]:
        """Each picture's numbers, and the one that is shown brightest: few pixels have more."""
        loss, weight = self._loss(), self.goal.weight
        maps = {"loss": loss, "weights": weight, "product": loss * weight}
        return {name: (one, float(np.percentile(one, _BRIGHTEST))) for name, one in maps.items()}

    def _loss(self) -> np.ndarray:
        return lesson.cross_entropy(self.activations.array("logits"), self.goal.classes)

    def learning_png(self, what: str) -> bytes:
        """The tile's cross-entropy ("loss"), its weight map ("weights") or their product."""
        maps = self._learning_maps()
        if what not in maps:
            raise ConfigError(f"what is {what!r}; expected one of {', '.join(maps)}")
        values, high = maps[what]
        return heat_png(values, 0.0, high)

    def step(self, rate: float) -> dict[str, Any]:
        """One step of gradient descent; the page then shows the changed network."""
        found = lesson.gradient_step(self.network, self._given, self.goal, rate)
        self.steps.append({name: found[name] for name in ("before", "after", "rate")})
        self._compute()
        return found

    def reset(self) -> None:
        """The weights as they were loaded."""
        self.network.reset()
        self.steps.clear()
        self._compute()

    def warp_png(self, settings: dict[str, Any], seed: int, lattice: bool) -> bytes:
        """The tile's part of the image, warped as the settings say."""
        options = make_settings(settings)
        with self.lock:  # for a moment: frames are drawn beside other requests
            pixels, labels, low, high = self.pixels, self.labels, self._low, self._high
            origin, size = self.origin, self.size
        height, width = (min(n, _WARPED) for n in pixels.shape[:2])
        rows, columns = (
            min(max(o + s // 2 - n // 2, 0), whole - n)
            for o, s, n, whole in zip(origin, size, (height, width), pixels.shape, strict=False)
        )
        part = np.s_[rows : rows + height, columns : columns + width]
        labels = None if labels is None else labels[part]
        found = lesson.warp(np.nan_to_num(pixels[part]), labels, options, seed)
        spacing = max(8, min(height, width) // 10) if lattice else 0
        return png(lesson.draw_warp(found.image, found.places, found.labels, low, high, spacing))

    def overview_png(self) -> bytes:
        """The whole image, at most 1024 pixels wide and high."""
        step = max(1, max(self.pixels.shape[:2]) // _OVERVIEW)
        return image_png(self.pixels[::step, ::step], self._low, self._high)

    def upload(self, kind: str, name: str, data: bytes) -> None:
        """Opens a file that the person chose: "image" or "labels"."""
        if kind not in ("image", "labels"):
            raise ConfigError(f"kind is {kind!r}; expected image or labels")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(name).name or "file")
            path.write_bytes(data)
            try:
                if kind == "image":
                    self.open_image(read_image(path), name)
                else:
                    self.open_labels(read_labels(path))
            except KerasUnetError as error:
                raise type(error)(str(error).replace(f"{folder}/", "")) from error


def _shown_size(m: FeatureMap) -> float:
    """Side of a stage's picture on the page, in units of the drawing."""
    return max(104 * 0.75 ** (m.level - 1), 34.0)


class _Route(NamedTuple):
    """What answers a request: (session, query, body) -> JSON or a picture."""

    method: str
    answer: Callable[[Session, dict[str, str], bytes], Any]
    alone: bool = True  # nothing else is computed meanwhile


def _number(query: dict[str, str], name: str, default: int | None = None) -> int:
    try:
        return int(query[name]) if default is None or name in query else default
    except (KeyError, ValueError):
        raise ConfigError(f"{name} is {query.get(name)!r}; expected a whole number") from None


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise ConfigError(f"the request is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"the request is {found!r}; expected an object")
    return found


def _rate(body: bytes) -> float:
    rate = _json(body).get("rate")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise ConfigError(f"rate is {rate!r}; expected a number")
    return float(rate)


def _move_tile(session: Session, query: dict[str, str], body: bytes) -> dict[str, Any]:
    session.show_tile(_number(query, "y"), _number(query, "x"))
    return session.state()


def _reset(session: Session, query: dict[str, str], body: bytes) -> dict[str, Any]:
    session.reset()
    return session.state()


def _open(session: Session, query: dict[str, str], body: bytes) -> dict[str, Any]:
    session.upload(query.get("kind", ""), query.get("name", "file"), body)
    return session.state()


# Names of requests, and what answers them.
ROUTES: dict[str, _Route] = {
    "state": _Route("GET", lambda s, q, b: s.state()),
    "channels": _Route("GET", lambda s, q, b: s.channels(q.get("stage", ""))),
    "kernel": _Route("GET", lambda s, q, b: s.kernel(q.get("stage", ""), _number(q, "channel"))),
    "pixel": _Route("GET", lambda s, q, b: s.pixel(_number(q, "y"), _number(q, "x"))),
    "work": _Route(
        "GET",
        lambda s, q, b: s.work(
            q.get("stage", ""), _number(q, "channel", -1), _number(q, "y"), _number(q, "x")
        ),
    ),
    "learning": _Route("GET", lambda s, q, b: s.learning()),
    "histogram": _Route(
        "GET",
        lambda s, q, b: histograms(
            s.network,
            s.activations,
            q.get("stage", ""),
            dropout=_number(q, "dropout", 0) / 100,
            normalize=q.get("normalize") == "true",
        ),
    ),
    "map.png": _Route(
        "GET",
        lambda s, q, b: s.map_png(
            q.get("stage", ""), _number(q, "channel", 0), _number(q, "pixels", 0) or None
        ),
    ),
    "answer.png": _Route("GET", lambda s, q, b: s.answer_png(_number(q, "class", 1))),
    "learning.png": _Route("GET", lambda s, q, b: s.learning_png(q.get("what", ""))),
    "overview.png": _Route("GET", lambda s, q, b: s.overview_png()),
    "warp.png": _Route(
        "GET",
        lambda s, q, b: s.warp_png(
            _json(q.get("settings", "{}").encode()),
            _number(q, "seed", 0),
            q.get("lattice") == "true",
        ),
        alone=False,
    ),
    "tile": _Route("POST", _move_tile),
    "step": _Route("POST", lambda s, q, b: s.step(_rate(b))),
    "reset": _Route("POST", _reset),
    "open": _Route("POST", _open),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        url = urlsplit(self.path)
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self._refuse(403, "another host")  # a page elsewhere, by DNS rebinding
            return
        start, _, name = url.path.lstrip("/").partition("/")
        if not secrets.compare_digest(start.encode(), self.server.secret.encode()):
            self._refuse(404, "there is nothing here: take the whole address")
            return
        length = self.headers.get("Content-Length", "0" if method == "GET" else "")
        if not (length.isascii() and length.isdigit()) or int(length) > LARGEST_FILE:
            self._refuse(413, f"a file of at most {LARGEST_FILE >> 20} MiB is expected")
            return
        body = self.rfile.read(int(length))
        query = dict(parse_qsl(url.query))
        try:
            self._send(200, *self.server.answer(method, name, query, body))
        except FileNotFoundError:
            self._send(404, *_problem(f"there is no {name}"))
        except (KerasUnetError, OSError) as error:
            self._send(400, *_problem(str(error)))
        except Exception as error:  # the page says it, the terminal has the rest
            traceback.print_exc()
            self._send(500, *_problem(f"{type(error).__name__}: {error}"))

    def _refuse(self, status: int, text: str) -> None:
        """Without reading what else was sent."""
        self.close_connection = True
        self._send(status, *_problem(text))

    def _send(self, status: int, kind: str, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            # addresses of pictures hold the version, so that an old one is never shown
            fresh = "private, max-age=600" if kind == "image/png" and status == 200 else "no-store"
            self.send_header("Cache-Control", fresh)
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:  # the page was closed, or wants another frame already
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """A person reads the page, not a log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, session: Session, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.session, self.secret = session, secrets.token_urlsafe(12)

    def answer(self, method: str, name: str, query: dict[str, str], body: bytes) -> Answer:
        route = ROUTES.get(name)
        if route is not None and route.method == method:
            with self.session.lock if route.alone else nullcontext():
                found = route.answer(self.session, query, body)
            if isinstance(found, bytes):
                return "image/png", found
            return "application/json", json.dumps(found, allow_nan=False).encode()
        if method != "GET":
            raise FileNotFoundError(name)
        if name == "guide":
            return _TYPES[".html"], guide_page().encode()
        if re.fullmatch(r"figures/[\w-]+\.png", name):
            return "image/png", (_guide_folder() / name).read_bytes()
        name = name or "page.html"
        if name not in ("page.html", "page.css", "page.js", "page.svg"):
            raise FileNotFoundError(name)
        return _TYPES[Path(name).suffix], (ASSETS / name).read_bytes()


def _problem(text: str) -> Answer:
    return "application/json", json.dumps({"error": text}).encode()


# the guide


def _guide_folder() -> Path:
    found = next((folder for folder in GUIDES if (folder / "guide.md").is_file()), None)
    if found is None:
        raise FileNotFoundError("guide")
    return found


@functools.cache
def guide_page() -> str:
    """docs/guide.md as a page whose headings have the anchors that links on GitHub have."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse((_guide_folder() / "guide.md").read_text(encoding="utf-8"))
    for token, text in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(text.content))
        for part in token.children or ():
            address = part.attrGet("href")
            if part.type == "link_open" and not str(address).startswith(("#", "https:")):
                part.attrs.pop("href")  # another page of the documents, which is not served here
    body = parser.renderer.render(tokens, parser.options, {})
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<title>The U-Net, explained</title><link rel="stylesheet" href="page.css">'
    )
    return f'{head}<body class="guide"><main>{body}</main></body></html>'


def anchor(heading: str) -> str:
    """The anchor of a heading: its words in lower case, joined by hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# what a script calls


class Explorer:
    """A page that is served until `close`, or until the program ends.

    Attributes:
        url: the page's address, on this machine only. session: what it shows.
    """

    def __init__(self, session: Session, port: int = 0) -> None:
        try:
            self._server = _Server(session, port)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} cannot be used ({error}): give another") from error
        self.session = session
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/{self._server.secret}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Serves until Ctrl+C."""
        try:
            while self._thread.is_alive():
                self._thread.join(1.0)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()

    def _repr_html_(self) -> str:
        """The page within a notebook."""
        return (
            f'<p><a href="{self.url}" target="_blank" rel="noopener">{self.url}</a></p>'
            f'<iframe src="{self.url}" width="100%" height="900" title="The network at work">'
            "</iframe>"
        )


def explore(
    model: Model | None = None,
    image: np.ndarray | str | Path | None = None,
    labels: np.ndarray | str | Path | None = None,
    *,
    name: str | None = None,
    instances: bool = False,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    port: int = 0,
    browser: bool = True,
) -> Explorer:
    """Opens a page in which the network is seen at work on an image; see docs/explore.md.

    >>> page = keras_unet.explore(model, image)     # in a notebook: shown below the cell
    >>> page.wait()                                 # in a script: until Ctrl+C

    Args:
        model: of `build_unet`, trained or not; what `load_model` returns or the place it takes. It
            is copied, and stays as it is. None: a small network, trained on made-up cells.
        image: [H, W] or [H, W, C] of any real type, or a PNG, JPEG or TIFF. None: made-up cells.
        labels: integers [H, W], or a file; then the page shows what each pixel costs.
        name: of the image, as it is shown; None: its file's.
        instances: each number in the labels is one object, whatever the model was trained for.
        normalization, class_names: of a model that does not bring them, see `load_model`.
        port: 0 takes a free one.
        browser: open the page.

    Raises:
        DataError, ConfigError: the files cannot be read, or do not fit the model.
    """
    if isinstance(image, (str, Path)):
        name, image = name or Path(image).name, read_image(image)
    if isinstance(labels, (str, Path)):
        labels = read_labels(labels)
    session = Session(
        model,
        image,
        labels,
        name=name or "image",
        instances=instances,
        normalization=normalization,
        class_names=class_names,
    )
    page = Explorer(session, port)
    if browser:
        webbrowser.open(page.url)
    return page
