"""Rules of a plan: from what was measured of data and machine to settings, each with a reason.

A reason ends with what it rests on: [measured], compared with its contrary on real data;
[run: …], a setting of a run of docs/results.md, not compared one by one; [paper]; [arithmetic];
[data], said by a file of the data set; or [judgement], which nobody has measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from keras_unet import geometry
from keras_unet.machine import Machine
from keras_unet.training.ancestor import Ancestor
from keras_unet.training.planning.data_facts import DataFacts
from keras_unet.training.planning.sizes import (
    LEAST_USEFUL,
    MEMORY_SHARE,
    PAPER_OUTPUT,
    Fitted,
    Size,
    Sizing,
    step_seconds,
    steps_in,
)

STRAIN = 0.11  # elastic displacement over the distance of the grid points: that of the DSB runs

FINE_TUNING = 1e-3  # learning rate of AdamW

TURNING = ("paper", "nnunet")  # augmentations that turn by any angle


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
        ancestor: Ancestor | None = None,
    ) -> None:
        self.facts, self.machine, self.given, self.missed = facts, machine, given, missed
        self.choices: list[Choice] = []
        self.ancestor = ancestor
        if ancestor is not None:
            self._inherit(ancestor)

    def pick(self, key: str, value: Any, reason: str) -> Any:
        """The value that is given for the key, or else this one, noted with its reason."""
        if key in self.given:
            return self.given[key]
        self.choices.append(Choice(key, value, reason))
        return value

    def all(self) -> list[Choice]:
        """Every choice, in the order in which they were made."""
        depth = self._depth()
        self._minutes()
        sizing = Sizing(self.facts, self.machine, self.given, depth)
        size = self._size(sizing)
        self._loss()
        self._tiles(size.tile, geometry.output_size(size.tile, depth, size.padding))
        self._speed(self._seconds(sizing, size))
        return self.choices

    def _inherit(self, ancestor: Ancestor) -> None:
        """Takes the ancestor's network as given; its weights fit no other."""
        why = f"that of {ancestor.name}, whose weights fit no other [arithmetic]"
        for key, value in ancestor.network.items():
            reason = f"that of {ancestor.name} [judgement]" if key == "model.padding" else why
            self.pick(key, value, reason)
        self.given = {**ancestor.network, **self.given}

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

    def _minutes(self) -> None:
        if "minutes" not in self.given and "steps" not in self.given:
            self.pick("minutes", 20.0, "nothing else was asked for [judgement]")

    def _steps(self, seconds: float) -> float:
        """Of the whole run: `steps` or `minutes`, whichever ends first."""
        steps, minutes = self.given.get("steps"), self.given.get("minutes")
        minutes = 20.0 if minutes is None and steps is None else minutes
        return steps_in(minutes, steps, seconds)

    def _seconds(self, sizing: Sizing, size: Size) -> float:
        share = -(-size.batch // self.machine.devices)
        return step_seconds(size.tile, share, sizing.network(size), self.machine)

    def _size(self, sizing: Sizing) -> Size:
        def steps(size: Size) -> float:
            return self._steps(self._seconds(sizing, size))

        timed = "minutes" in self.given or "steps" not in self.given
        found = sizing.fitted(steps if timed else None)
        size, wished = found.size, found.wished
        room = f"about {found.need / 1e9:.1f} GB of {found.room / MEMORY_SHARE / 1e9:.1f} GB"
        if not found.fits:
            room = f"DOES NOT FIT: {room}"
        self.pick("model.padding", size.padding, self._why_padding(sizing, found))
        why = f"about {steps(wished):.0f} steps; 300 needed for 16, 3000 for 32, 6000 for 64"
        why = why if timed else "no time is given: what suits a CPU"
        narrow = f"; {wished.filters} do not fit" if size.filters < wished.filters else ""
        self.pick("model.filters", size.filters, f"{why}{narrow} [judgement]")
        output = geometry.output_size(size.tile, sizing.depth, size.padding)
        why = self._why_tile(size, output)
        if size.tile < sizing.widest(size.padding):
            why = "the largest that fits" if found.fits else "the smallest"
        self.pick("tile", size.tile, f"{why}; gives {output} px; {room} [arithmetic]")
        wanted = sizing.batch(size.padding, size.tile)
        enough = "about two of the paper's tiles" if size.batch == wanted else "what fits"
        why = f"{size.batch} × {output}² px of output a step, {enough}; {room} [judgement]"
        self.pick("batch_size", size.batch, why)
        if size.batch < wanted:
            count = min(-(-wanted // size.batch), 4)
            why = f"{count * size.batch} tiles for one change of the weights, where {wanted} "
            self.pick("accumulate", count, f"{why}would be taken at once [judgement]")
        return size

    def _why_tile(self, size: Size, output: int) -> str:
        """Of the widest tile: does its output cover an image, or what else is it?"""
        short, long = self.facts.short, self.facts.long
        images = f"images of {short}×{long} px"
        if output >= long:
            return f"covers {images}"
        if (long if size.padding == "valid" else short) >= PAPER_OUTPUT:
            about = "" if output == PAPER_OUTPUT else "about "
            return f"{about}the paper's {PAPER_OUTPUT} px of output; {images} take several tiles"
        return f"the largest within {images}"

    def _why_padding(self, sizing: Sizing, found: Fitted) -> str:
        usual = sizing.usual_tile
        useful = f"{sizing.useful(usual):.0%} is output"
        said = f"of a {usual} px tile for images of {self.facts.short} px {useful}"
        if found.size.padding == "valid":
            return f"{said}; exact tiling [paper]"
        if found.wished.padding == "valid":
            return f"no valid tile fits of which {LEAST_USEFUL:.0%} is output [arithmetic]"
        tile = self.given.get("tile")
        if tile is not None and sizing.useful(usual) >= LEAST_USEFUL:
            return f"{tile} px is no size of a valid network of depth {sizing.depth} [arithmetic]"
        return f"{said}, the rest margin, so none; no worse than valid [measured: DSB]"

    def _loss(self) -> None:
        facts = self.facts
        shares = ", ".join(f"{share:.0%}" for share in facts.fractions)
        rarest = min((f for f in facts.fractions if f > 0), default=1.0)
        least = f"{rarest:.0%}" if rarest >= 0.01 else f"{100 * rarest:.1g}%"
        if rarest < 0.05:
            why = f"the classes have {shares}: one has {least}, below 5 % [judgement]"
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
            why = f"the rarest class has {least}" if rarest < 0.1 else "separate objects"
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
        elif self.ancestor is not None and self.ancestor.normalization != "none":
            why = f"that of {self.ancestor.name}, whose weights know such grey values [judgement]"
            self.pick("data.normalization", self.ancestor.normalization, why)
        augment = self.given.get("augment", "paper")
        if self.given.get("preset"):  # as published
            return
        if augment in TURNING:
            why = "keeps the grain of an image that is turned; bilinear smooths it away, and there "
            why += "is none of that in prediction: pixel error 0.077, not 0.079 "
            why += "[measured: ISBI 2012]"
            self.pick("augment_options.interpolation", "bicubic", why)
        sigma = round(STRAIN / 2**0.5 * tile / 2, 1)
        if sigma < 10.0 and augment == "paper":
            size = facts.diameter or tile / 8
            why = f"10 px on a grid of {tile // 2} px would tear a {tile} px tile; so an object of "
            why += f"{size:g} px is stretched by {STRAIN * size:.1f} px [run: DSB, this strain]"
            self.pick("augment_options.elastic_sigma", sigma, why)

    def _speed(self, seconds: float) -> None:
        steps = self._steps(seconds)
        each = int(min(max(steps / 40, 10), 250))
        why = f"some 40 validations in about {steps:.0f} steps of about {seconds:.2g} s"
        self.pick("steps_per_epoch", each, f"{why} [judgement]")
        if steps >= 1000:
            why = "the paper's, against learning few images by heart; slower in the first steps: "
            why += "pixel error 0.074, not 0.076 [measured: ISBI 2012]"
            self.pick("model.dropout", 0.5, why)
        self.pick("optimizer", "adam", "AdamW, whose settings suit most data [run: all]")
        if self.ancestor is not None and self.given.get("optimizer", "adam") == "adam":
            why = f"as from scratch, also with {self.ancestor.name} to begin with: tissue from 5 "
            why += "images after 80 steps has object F1 0.57, with 3e-4 0.44, with 1e-4 0.13; "
            why += "after 250 steps 0.59 and 0.57 [measured: DSB tissue, one seed]"
            self.pick("learning_rate", FINE_TUNING, why)
        self.pick("schedule", "polynomial", "falls to 0 as the time ends [run: all]")
        why = "the average of the last ninth of the steps, for which no batch decides: pixel "
        why += "error 0.0767 ± 0.0007, not 0.0835 ± 0.0048 [measured: ISBI 2012]"
        self.pick("ema_decay", 0.999, why)
        self.pick(
            "precision",
            "auto",
            f"the machine: {self.machine}; half the memory traffic where it has it [run: all]",
        )
