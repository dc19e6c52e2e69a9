"""The planner's rules: from what was measured of data and machine to settings, each with a reason.

A reason ends with what it rests on: [measured], compared with its contrary on real data;
[run: …], a setting of a run of docs/results.md, not compared one by one; [paper]; [arithmetic];
or [judgement], which nobody has measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from keras_unet import geometry
from keras_unet.training.cost import Network, step_memory, step_seconds
from keras_unet.training.facts import DataFacts
from keras_unet.training.machine import Machine

LEAST_USEFUL = 0.4  # share of a valid tile's pixels that must be output
PAPER_OUTPUT = 388
STRAIN = 0.11  # elastic displacement over the distance of the grid points: that of the DSB runs
PIXELS = 2 * PAPER_OUTPUT**2  # of output a step: two of the paper's tiles
MEMORY_SHARE = 0.8  # of what is free
GPU_MEMORY = 8e9  # bytes that are counted on: TensorFlow does not tell what a GPU has free


class Choice(NamedTuple):
    """One setting of a plan: its key as for `--set`, its value, and why."""

    key: str
    value: Any
    reason: str


class Rules:
    """Applies the rules in order; what is given stays as it is, and the rest is fitted to it."""

    def __init__(
        self,
        facts: DataFacts,
        machine: Machine,
        given: Mapping[str, Any],
        missed: Callable[[int], float],
    ) -> None:
        self.facts, self.machine, self.given, self.missed = facts, machine, given, missed
        self.choices: list[Choice] = []

    def pick(self, key: str, value: Any, reason: str) -> Any:
        """The value that is given for the key, or else this one, noted with its reason."""
        if key in self.given:
            return self.given[key]
        self.choices.append(Choice(key, value, reason))
        return value

    def all(self) -> list[Choice]:
        """Every choice, in the order in which they were made."""
        depth = self._depth()
        padding = self._padding(depth)
        minutes = self._minutes()
        filters, tile, batch = self._size(depth, padding, minutes)
        output = geometry.output_size(tile, depth, padding)
        self._loss()
        self._tiles(tile, output)
        self._speed(Network(filters, depth, padding, *self._ends), tile, batch, minutes)
        return self.choices

    @property
    def _ends(self) -> tuple[int, int]:
        return self.facts.channels, self.facts.classes

    def _depth(self) -> int:
        facts, depth = self.facts, 4
        while depth > 1 and facts.short < 8 * 2**depth:
            depth -= 1
        if depth < 4:
            why = f"images of {facts.short} px leave {facts.short >> depth} px at the bottom"
            return self.pick("model.depth", depth, f"{why}; at least 8 [judgement]")
        seen = geometry.receptive_field(4)
        if facts.large is not None and facts.large > seen and facts.short >= 8 * 2**5:
            why = f"5 % of the objects are larger than {facts.large:g} px, depth 4 sees {seen} px"
            return self.pick("model.depth", 5, f"{why} [judgement]")
        large = "" if facts.large is None else f"; 95 % of the objects are below {facts.large:g} px"
        return self.pick("model.depth", 4, f"the paper's: a pixel sees {seen} px{large} [paper]")

    def _padding(self, depth: int) -> geometry.Padding:
        side = self.facts.short
        tile = geometry.input_size(min(side, PAPER_OUTPUT), depth)
        useful = (geometry.output_size(tile, depth) / tile) ** 2
        said = f"of a {tile} px tile for images of {side} px {useful:.0%} is output"
        if useful < LEAST_USEFUL:
            why = f"{said}, the rest margin, so none; no worse than valid [measured: DSB]"
            return self.pick("model.padding", "same", why)
        return self.pick("model.padding", "valid", f"{said}; exact tiling [paper]")

    def _minutes(self) -> float | None:
        """The time that the run has, None if its steps are given alone."""
        if "minutes" in self.given or "steps" in self.given:
            return self.given.get("minutes")
        return self.pick("minutes", 20.0, "nothing else was asked for [judgement]")

    def _size(
        self, depth: int, padding: geometry.Padding, minutes: float | None
    ) -> tuple[int, int, int]:
        """Filters, tile and batch: all three share memory and time."""
        facts, machine, stride = self.facts, self.machine, geometry.stride(depth)
        if padding == "valid":
            tile = geometry.input_size(min(facts.long, PAPER_OUTPUT), depth)
        else:
            tile = max(min(facts.short, PAPER_OUTPUT) // stride, 1) * stride
        tile = self.given.get("tile", tile)
        limit = MEMORY_SHARE * (GPU_MEMORY if machine.gpu else machine.memory)

        def batch_of(tile: int) -> int:
            output = geometry.output_size(tile, depth, padding)
            return self.given.get("batch_size", max(1, min(16, PIXELS // output**2)))

        def network(filters: int) -> Network:
            return Network(filters, depth, padding, *self._ends)

        def steps(filters: int) -> float:
            seconds = step_seconds(tile, batch_of(tile), network(filters), machine)
            return float("inf") if minutes is None else 60 * minutes / seconds

        filters = 16
        if minutes is not None:
            wide = [f for f, least in ((32, 3000), (64, 6000)) if steps(f) >= least]
            filters = max(wide, default=16 if steps(16) >= 300 else 8)
        filters = self.given.get("model.filters", filters)
        batch = batch_of(tile)
        fits = step_memory(tile, batch, network(filters)) <= limit
        while not fits and "batch_size" not in self.given and batch > 1:
            batch -= 1
            fits = step_memory(tile, batch, network(filters)) <= limit
        while not fits and "tile" not in self.given and geometry_below(tile, depth, padding):
            tile -= stride
            fits = step_memory(tile, batch, network(filters)) <= limit
        while not fits and "model.filters" not in self.given and filters > 4:
            filters //= 2
            fits = step_memory(tile, batch, network(filters)) <= limit
        need = step_memory(tile, batch, network(filters))
        room = f"about {need / 1e9:.1f} GB of {limit / MEMORY_SHARE / 1e9:.1f} GB"
        if minutes is None:
            why = "no time is given: what suits a CPU"
        else:
            why = f"about {steps(filters):.0f} steps in {minutes:g} min; 300 needed for 16, "
            why += "3000 for 32, 6000 for 64"
        self.pick("model.filters", filters, f"{why} [judgement]")
        output = geometry.output_size(tile, depth, padding)
        why = f"covers images of {facts.short}×{facts.long} px, at most the paper's {PAPER_OUTPUT}"
        self.pick("tile", tile, f"{why}; gives {output} px; {room} [arithmetic]")
        why = f"{batch} × {output}² px of output a step, about two of the paper's tiles"
        self.pick("batch_size", batch, f"{why}; {room} [judgement]")
        return filters, tile, batch

    def _loss(self) -> None:
        facts = self.facts
        shares = ", ".join(f"{share:.0%}" for share in facts.fractions)
        rarest = min((f for f in facts.fractions if f > 0), default=1.0)
        if rarest < 0.05:
            why = f"the classes have {shares}: one below 5 % [judgement]"
            self.pick("loss.class_weights", "balanced", why)
        else:
            why = f"the classes have {shares}: balancing made no difference at 15 % [measured: DSB]"
            self.pick("loss.class_weights", "none", why)
        filled = facts.kind == "semantic" and facts.fractions[0] < 0.5
        if filled or facts.classes > 2:
            why = f"class 0 is {facts.fractions[0]:.0%} of the pixels, between what fills the image"
            why = why if filled else f"{facts.classes} classes, not objects with gaps"
            self.pick("loss.w0", 1.0, f"{why}: a low border weight [run: ISBI 2012]")
        elif facts.close is not None and facts.close >= 0.05:
            why = f"{facts.close:.0%} of the objects are within 5 px of another [run: DSB]"
            self.pick("loss.w0", 5.0, why)
        else:
            self.pick("loss.w0", 0.0, "hardly an object has a neighbour within 5 px [judgement]")
        if facts.diameter is not None:
            sigma = min(5.0, max(1.5, round(facts.diameter / 6, 1)))
            why = f"a sixth of the objects' {facts.diameter:g} px, at most the paper's 5 px: "
            why += "weight in gaps, not around [run: DSB, one seed; a sixth is judgement]"
            self.pick("loss.sigma", sigma, why)
        if facts.kind == "instances" or rarest < 0.1:
            why = f"the rarest class has {rarest:.0%}" if rarest < 0.1 else "separate objects"
            self.pick("loss.dice", 1.0, f"{why} [run: DSB]")

    def _tiles(self, tile: int, output: int) -> None:
        facts = self.facts
        missed = self.missed(output)
        if missed > 0.1:
            why = f"{missed:.0%} of random tiles hold nothing of a class: a third is centred on one"
            self.pick("oversample", 0.33, f"{why}, nnU-Net's share [judgement]")
        if facts.flat:
            why = f"{facts.flat} images have hardly any contrast, which each image's own z-score"
            self.pick("data.normalization", "dataset", f"{why} would blow up [judgement]")
        why = "keeps the grain of an image that is turned; bilinear smooths it away, and there is "
        why += "none of that in prediction: pixel error 0.077, not 0.079 [measured: ISBI 2012]"
        self.pick("augment_options.interpolation", "bicubic", why)
        sigma = round(STRAIN / 2**0.5 * tile / 2, 1)
        if sigma < 10.0 and self.given.get("augment", "paper") == "paper":
            size = facts.diameter or tile / 8
            why = f"10 px on a grid of {tile // 2} px would tear a {tile} px tile; so an object of "
            why += f"{size:g} px is stretched by {STRAIN * size:.1f} px [run: DSB, this strain]"
            self.pick("augment_options.elastic_sigma", sigma, why)

    def _speed(self, network: Network, tile: int, batch: int, minutes: float | None) -> None:
        seconds = step_seconds(tile, batch, network, self.machine)
        steps = self.given.get("steps") or (60 * (minutes or 20.0)) / seconds
        each = int(min(max(steps / 40, 10), 250))
        why = f"some 40 validations in about {steps:.0f} steps of about {seconds:.2g} s"
        self.pick("steps_per_epoch", each, f"{why} [judgement]")
        if steps >= 1000:
            why = "the paper's, against learning few images by heart; slower in the first steps: "
            why += "pixel error 0.074, not 0.076 [measured: ISBI 2012]"
            self.pick("model.dropout", 0.5, why)
        self.pick("optimizer", "adam", "AdamW, whose settings suit most data [run: all]")
        self.pick("schedule", "polynomial", "falls to 0 as the time ends [run: all]")
        why = "the average of the last ninth of the steps, for which no batch decides: pixel "
        why += "error 0.0767 ± 0.0007, not 0.0835 ± 0.0048 [measured: ISBI 2012]"
        self.pick("ema_decay", 0.999, why)
        self.pick(
            "precision",
            "auto",
            f"the machine: {self.machine}; half the memory traffic where it has it [run: all]",
        )


def geometry_below(tile: int, depth: int, padding: geometry.Padding) -> bool:
    """Is there a legal tile one stride smaller?"""
    if padding == "same":
        return tile > 2 * geometry.stride(depth)
    return tile > geometry.input_size(1, depth)
