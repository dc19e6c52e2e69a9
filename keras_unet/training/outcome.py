"""Outcome of a run: what its steps and its history say, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import numpy as np

from keras_unet import run_layout
from keras_unet.machine import Machine
from keras_unet.training.config import TrainConfig
from keras_unet.training.planning.sizes import Network, step_seconds, steps_in
from keras_unet.training.run_folder import how_to_resume

SHORT = 0.5  # share of the expected steps; the estimate itself may be a factor of two off
FALL = 0.05  # of the error 1 - score, in the last quarter of the validations: it was still rising
AGREEING = 0.75  # share of the pairs of late validations of which the later is better
WORSE = 1.2  # validation loss over its least value: images are learned by heart
BETTER = 0.9  # and the training loss over what it was there
FEWEST = 3  # validations that say whether a score rises
FEWEST_LOSSES = 8  # validations that say what the losses do


class Outcome(NamedTuple):
    """How the steps of a run ended.

    steps: made in all. minutes: that they took. used: share of the budget, 0 … 1; below 1 a person
    or `patience` ended them. interrupted: a person did. history: the rows of `history.csv`.
    """

    steps: int
    minutes: float
    used: float
    interrupted: bool
    history: Sequence[Mapping[str, float]]


def expected_steps(
    config: TrainConfig, machine: Machine, *, tile: int, channels: int, classes: int
) -> int:
    """Steps that a plan expects of a run: its `steps`, or those that there is time for.

    Args:
        config: with the minutes or steps. machine: that trains.
        tile: side of the input in pixels. channels: of the images. classes: of the labels.
    """
    model = config.model
    network = Network(model.filters, model.depth, model.padding, channels, classes)
    share = -(-config.batch_size // machine.devices)
    seconds = step_seconds(tile, share, network, machine)
    return max(round(steps_in(config.time_limit, config.steps, seconds)), 1)


def lessons(
    outcome: Outcome, config: TrainConfig, expected: int | None, folder: Path
) -> tuple[str, ...]:
    """What a person should know of a run's end, the most important first.

    Args:
        expected: `expected_steps`, as they were when the run began; None: not known.
        folder: of the run.
    """
    found = (_length(outcome, config, expected, folder), _by_heart(outcome.history, config))
    return tuple(text for text in found if text)


def still_rising(scores: Sequence[float]) -> bool | None:
    """Whether longer training promises a better score; None: too few validations to say.

    The median error, 1 − score, of the last quarter of the validations is `FALL` less than that of
    the quarter before; and of the pairs of validations in the later half, `AGREEING` rise. So
    neither noise about a level counts nor one lucky validation. A learning rate that falls to 0
    flattens every curve at its end: what rises all the same was far from done.
    """
    count = len(scores)
    if count < FEWEST:
        return None
    errors, quarter = 1.0 - np.asarray(scores, np.float64), max(count // 4, 1)
    last, before = np.median(errors[-quarter:]), np.median(errors[-2 * quarter : -quarter])
    late = errors[-max(count // 2, FEWEST) :]
    first, second = np.triu_indices(len(late), 1)
    agreeing = np.mean(late[second] < late[first])
    return bool(last < (1.0 - FALL) * before and agreeing >= AGREEING)


def _length(
    outcome: Outcome, config: TrainConfig, expected: int | None, folder: Path
) -> str | None:
    """Whether it was long enough, and how to go on."""
    steps, made = outcome.steps, f"Stopped after {outcome.steps:,} steps"
    if expected is not None:
        planned = (folder / run_layout.PLAN).is_file()
        who = "the plan expected" if planned else "a plan expects of such a run here"
        made = f"Made {steps:,} of the {expected:,} steps that {who}"
    if outcome.interrupted and outcome.used < 1.0:
        return f"{made}: go on with {how_to_resume(folder)}"
    if outcome.used < 1.0:  # by `patience`: longer would not have helped
        return None
    rising = still_rising([row[f"val_{config.monitor}"] for row in outcome.history])
    if expected is None or steps >= SHORT * expected:
        if not rising:
            return None
        limit = config.time_limit
        longer = f"steps={2 * steps}" if limit is None else f"minutes={_minutes(2 * limit)}"
        return f"The validation score was still rising: {_longer(longer, folder)}"
    needed = _minutes(outcome.minutes * expected / max(steps, 1))
    score = "; the score was still rising" if rising else ""
    pace = f"at this speed they take {needed} minutes"
    return f"{made} ({pace}){score}: {_longer(f'minutes={needed}', folder)}"


def _longer(limit: str, folder: Path) -> str:
    """What a run that is over can be followed by; it goes on itself only where it was stopped."""
    return (
        f"train longer (--set {limit}), or begin the next run with what this one learned "
        f"(--set init={quote(str(folder))})"
    )


def _by_heart(history: Sequence[Mapping[str, float]], config: TrainConfig) -> str | None:
    """Whether it learned the training images by heart: their loss falls, that of others rises."""
    count, quarter = len(history), max(len(history) // 4, 1)
    if count < FEWEST_LOSSES:
        return None
    loss, other = (np.array([row[key] for row in history]) for key in ("loss", "val_loss"))
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(other, 3), axis=1)
    place = int(smooth.argmin()) + 1  # of the middle of three
    least, late = float(smooth[place - 1]), float(np.median(other[-quarter:]))
    if place >= count - quarter or late < WORSE * least:
        return None
    if np.median(loss[-quarter:]) > BETTER * np.median(loss[place - 1 : place + 2]):
        return None
    scores = [row[f"val_{config.monitor}"] for row in history]
    best = int(np.argmax(scores))
    step = history[place]["step"]
    return (
        f"The validation loss rose from {least:.3g} (step {step:.0f}) to {late:.3g} while the "
        "training loss fell: the network learns its images by heart. More labelled images, "
        "stronger augmentation or model.dropout=0.5 help; best.keras is of step "
        f"{history[best]['step']:.0f}."
    )


def _minutes(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
