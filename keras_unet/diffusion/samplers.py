"""Samplers: DDPM, DDIM, DPM-Solver++, Euler, Euler ancestral, PNDM, each a table of coefficients.

All of them take steps of one form. With x the state, out the network's answer at (x, t) and x0 the
image that the two stand for,

    x0   = p x + q out                                    (then clipped, if asked for)
    next = a x + b x0 + c out + h1 past_1 + … + h4 past_4 + s noise

where past_k is the x0 (or out, in PNDM) of k steps ago. What differs between samplers are the
times and these numbers, and they are known before the first step. So a sampler is a `plan`, made
in NumPy in float64, and `step` and `trajectory` are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from keras import ops
from pydantic import ConfigDict, Field

from keras_unet.diffusion.noise import NoiseSchedule, Prediction
from keras_unet.errors import ConfigError
from keras_unet.settings import Frozen

Tensor = Any
Spacing = Literal["leading", "linspace", "trailing"]

MOST_PAST = 4
COLUMNS = ("p", "q", "a", "b", "c", *(f"h{k + 1}" for k in range(MOST_PAST)), "s")
SMALLEST_SIGNAL = 2.0**-24  # in place of 0 where a solver divides by sqrt(a_t)
RHO = 7.0  # Karras et al. 2022, 2206.00364, equation 5


@dataclass(frozen=True)
class Clipping:
    """What is done to x0 before it is used.

    Attributes:
        bound: x0 is cut to -bound … bound; None leaves it.
        dynamic: instead, each image is cut at this quantile of its absolute values, but at least
            at 1 and at most at `dynamic_most`, and divided by it (Imagen, 2205.11487, section
            2.3); None leaves it.
        dynamic_most: see there.
    """

    bound: float | None = None
    dynamic: float | None = None
    dynamic_most: float = 1.0

    def __call__(self, x0: Tensor) -> Tensor:
        if self.dynamic is not None:
            at = ops.clip(_quantile(ops.abs(x0), self.dynamic), 1.0, self.dynamic_most)
            return ops.clip(x0, -at, at) / at
        return x0 if self.bound is None else ops.clip(x0, -self.bound, self.bound)


@dataclass(frozen=True)
class Kind:
    """What the code of a step depends on; the numbers of a plan may change without a new graph.

    Attributes:
        clipping: of x0.
        remembers: whether past_k are "x0" or "out".
        memory: how many past values a step reads.
        stochastic: whether steps add noise.
    """

    clipping: Clipping
    remembers: Literal["x0", "out"]
    memory: int
    stochastic: bool


@dataclass(frozen=True)
class Plan:
    """A sampler's run, decided before it begins.

    Attributes:
        times: float64 [n], what the network is told at each call.
        scales: float64 [n], what the state is multiplied with before each call.
        table: float64 [n, len(COLUMNS)], the coefficients of each step.
        start: what standard normal noise is multiplied with to be the first state.
        kind: what a compiled step depends on besides the numbers.
    """

    times: np.ndarray
    scales: np.ndarray
    table: np.ndarray
    start: float
    kind: Kind

    def __len__(self) -> int:
        return len(self.times)


class State(NamedTuple):
    """The image on its way, and what the sampler remembers of the steps before, newest first."""

    x: Tensor
    past: tuple[Tensor, ...] = ()


def initial_state(plan: Plan, noise: Tensor) -> State:
    """The state before the first step, from standard normal noise [B, …] of any float dtype."""
    x = ops.convert_to_tensor(noise) * plan.start
    return State(x, (ops.zeros_like(x),) * plan.kind.memory)


def step(
    plan: Plan, state: State, output: Tensor, index: Any, noise: Tensor | None = None
) -> State:
    """One step: a pure function, for a Python integer `index` or a tensor in a compiled loop.

    Args:
        plan: of the sampler.
        state: before the step; its x is what the network was asked about, after `plan.scales`.
        output: the network's answer, of x's shape.
        index: which step, from 0.
        noise: standard normal of x's shape, where `plan.kind.stochastic`.

    Returns:
        The state after it.
    """
    row = ops.take(ops.convert_to_tensor(plan.table, dtype=state.x.dtype), index, axis=0)
    at = dict(zip(COLUMNS, ops.unstack(row, len(COLUMNS)), strict=True))
    x0 = plan.kind.clipping(at["p"] * state.x + at["q"] * output)
    x = at["a"] * state.x + at["b"] * x0 + at["c"] * output
    for k, past in enumerate(state.past):
        x = x + at[f"h{k + 1}"] * past
    if noise is not None:
        x = x + at["s"] * noise
    newest = x0 if plan.kind.remembers == "x0" else output
    return State(x, (newest, *state.past)[: len(state.past)])


def trajectory(
    plan: Plan,
    state: State,
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Callable[[Any], Tensor] | None = None,
    first: Any = 0,
    last: Any = None,
) -> State:
    """Steps `first` to `last` (exclusive) as one loop, which a compiler sees once.

    Args:
        plan: of the sampler.
        state: before step `first`.
        network: (x after scaling [B, …], time: a scalar of x's dtype) -> its answer [B, …].
        noise: step index -> standard normal [B, …]; needed where `plan.kind.stochastic`.
        first: an integer or a scalar integer tensor.
        last: likewise; None is the last step of the plan.

    Returns:
        The state after step `last` - 1.

    Raises:
        ConfigError: the plan is stochastic and there is no noise.
    """
    if plan.kind.stochastic and noise is None:
        raise ConfigError("this sampler adds noise in its steps; expected a function for it")
    dtype = state.x.dtype
    times = ops.convert_to_tensor(plan.times, dtype=dtype)
    scales = ops.convert_to_tensor(plan.scales, dtype=dtype)

    def body(index: Any, carried: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        now = State(carried[0], tuple(carried[1:]))
        output = network(now.x * ops.take(scales, index), ops.take(times, index))
        drawn = noise(index) if plan.kind.stochastic and noise is not None else None
        after = step(plan, now, ops.cast(output, dtype), index, drawn)
        return (after.x, *after.past)

    end = len(plan) if last is None else last
    carried = ops.fori_loop(first, end, body, (state.x, *state.past))
    return State(carried[0], tuple(carried[1:]))


class Sampler(Frozen):
    """How images are drawn from a trained network: a frozen, validated object.

    Attributes:
        spacing: which of the schedule's times are used: "leading" (0, k, 2k …), "linspace" (both
            ends), "trailing" (the last, then every k-th; Lin et al. 2023, 2305.08891, table 2).
        offset: added to "leading" times.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    spacing: Spacing = "leading"
    offset: int = Field(0, ge=0)

    def plan(self, schedule: NoiseSchedule, steps: int, prediction: Prediction) -> Plan:
        """The coefficients of a run.

        Args:
            schedule: that the network was trained with.
            steps: how many; 1 to `schedule.steps`.
            prediction: what the network answers.

        Raises:
            ConfigError: `steps` or the prediction do not fit; what would not be finite is refused.
        """
        if not 1 <= steps <= schedule.steps:
            raise ConfigError(
                f"{steps} sampling steps; expected 1 to {schedule.steps}, the schedule's own"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            plan = self._plan(schedule, steps, prediction)
        if np.isfinite(plan.table).all():
            return plan
        if schedule.zero_snr and prediction == "epsilon":
            raise ConfigError(
                "a schedule with zero_snr shows no image at its last time, so predicted noise "
                "says nothing there; expected a network that predicts v or sample"
            )
        raise ConfigError(f"{steps} sampling steps lie too close for {type(self).__name__}")

    def _plan(self, schedule: NoiseSchedule, steps: int, prediction: Prediction) -> Plan:
        raise NotImplementedError

    def _times(self, total: int, steps: int) -> np.ndarray:
        """Whole times, falling."""
        times: np.ndarray
        if self.spacing == "linspace":
            times = np.linspace(0, total - 1, steps).round()[::-1]
        elif self.spacing == "leading":
            times = (np.arange(steps) * (total // steps))[::-1] + self.offset
        else:
            times = np.arange(total, 0, -total / steps)[:steps].round() - 1
        return self._within(times, total)

    def _within(self, times: np.ndarray, total: int) -> np.ndarray:
        times = times.astype(np.int64)
        if times.max() >= total:
            raise ConfigError(
                f"offset {self.offset} with {len(times)} steps asks for time {int(times.max())}; "
                f"expected at most {total - 1}"
            )
        return times


class DDIM(Sampler):
    """Denoising diffusion implicit models (Song, Meng, Ermon 2020, 2010.02502, equation 12).

    Attributes:
        eta: 0 is deterministic, 1 draws as much noise as DDPM.
        clip: x0 is cut to -clip … clip; None leaves it.
        clip_noise_too: whether the noise is told anew from the clipped x0.
        dynamic: see `Clipping`; takes the place of `clip`.
        dynamic_most: see `Clipping`.
        ends_at_one: whether the time before the first has a_t = 1; else that of the first.
    """

    eta: float = Field(0.0, ge=0, le=1)
    clip: float | None = Field(None, gt=0)
    clip_noise_too: bool = False
    dynamic: float | None = Field(None, gt=0, le=1)
    dynamic_most: float = Field(1.0, ge=1)
    ends_at_one: bool = True

    def _plan(self, schedule: NoiseSchedule, steps: int, prediction: Prediction) -> Plan:
        times = self._times(schedule.steps, steps)
        left, before = _pairs(
            schedule, times, times - schedule.steps // steps, one=self.ends_at_one
        )
        p, q, r, s = _readings(np.sqrt(left), np.sqrt(1 - left), prediction)
        noise = self.eta * np.sqrt((1 - before) / (1 - left) * (1 - left / before))
        towards = np.sqrt(np.maximum(1 - before - noise**2, 0))
        if self.clip_noise_too:  # epsilon = (x - sqrt(a) x0) / sqrt(1 - a)
            x = towards / np.sqrt(1 - left)
            rows = _rows(p=p, q=q, a=x, b=np.sqrt(before) - x * np.sqrt(left), s=noise)
        else:
            rows = _rows(p=p, q=q, a=towards * r, b=np.sqrt(before), c=towards * s, s=noise)
        clipping = Clipping(self.clip, self.dynamic, self.dynamic_most)
        return _plan(times, rows, clipping)


class DDPM(Sampler):
    """Denoising diffusion probabilistic models (Ho et al. 2020, 2006.11239, equations 6 and 7).

    Attributes:
        variance: "small" is the posterior's, "large" is beta.
        clip: x0 is cut to -clip … clip; None leaves it.
        dynamic: see `Clipping`; takes the place of `clip`.
        dynamic_most: see `Clipping`.
    """

    variance: Literal["small", "large"] = "small"
    clip: float | None = Field(1.0, gt=0)
    dynamic: float | None = Field(None, gt=0, le=1)
    dynamic_most: float = Field(1.0, ge=1)

    def _plan(self, schedule: NoiseSchedule, steps: int, prediction: Prediction) -> Plan:
        times = self._times(schedule.steps, steps)
        left, before = _pairs(schedule, times, np.append(times[1:], -1), one=True)
        p, q, _, _ = _readings(np.sqrt(left), np.sqrt(1 - left), prediction)
        alpha = left / before
        beta = 1 - alpha
        posterior = np.maximum((1 - before) / (1 - left) * beta, 1e-20)
        deviation = np.sqrt(posterior if self.variance == "small" else beta)
        rows = _rows(
            p=p,
            q=q,
            a=np.sqrt(alpha) * (1 - before) / (1 - left),
            b=np.sqrt(before) * beta / (1 - left),
            s=np.where(times > 0, deviation, 0.0),
        )
        clipping = Clipping(self.clip, self.dynamic, self.dynamic_most)
        return _plan(times, rows, clipping)


class DPMSolver(Sampler):
    """DPM-Solver++, multistep (Lu et al. 2022, 2211.01095, algorithm 2 and appendix B).

    Attributes:
        order: 1 to 3; 2 is the "2M" that is mostly used.
        solver: "midpoint" or "heun": how the second order is taken.
        karras: whether the noise levels are spaced as Karras et al. 2022 do.
        stochastic: the SDE's solver, which adds noise.
        final: noise level after the last step: "zero", or "smallest", that of the first time.
        lower_order_at_end: fewer than 15 steps end with lower orders, for stability.
        first_order_at_end: the last step is of first order, however many there are.
        log_snr_least: times with a smaller log(sqrt(a) / sqrt(1 - a)) are left out; None: none.
        dynamic: see `Clipping`.
        dynamic_most: see `Clipping`.
    """

    spacing: Spacing = "linspace"
    order: Literal[1, 2, 3] = 2
    solver: Literal["midpoint", "heun"] = "midpoint"
    karras: bool = False
    stochastic: bool = False
    final: Literal["zero", "smallest"] = "zero"
    lower_order_at_end: bool = True
    first_order_at_end: bool = False
    log_snr_least: float | None = None
    dynamic: float | None = Field(None, gt=0, le=1)
    dynamic_most: float = Field(1.0, ge=1)

    def _plan(self, schedule: NoiseSchedule, steps: int, prediction: Prediction) -> Plan:
        levels = _levels(schedule)
        usable = schedule.steps
        if self.log_snr_least is not None:
            usable -= int(np.searchsorted(-np.log(levels[::-1]), self.log_snr_least))
        if self.karras:
            sigmas = _karras(levels[0], levels[-1], steps)
            times = _times_of(sigmas, levels)
            # In the cosine schedule the last times lie too close to be rounded.
            times = np.floor(times) if schedule.kind == "cosine" else times.round()
        else:
            times = self._solver_times(usable, schedule.steps, steps)
            sigmas = levels[times]
        sigmas = np.append(sigmas, 0.0 if self.final == "zero" else levels[0])
        alphas = 1 / np.sqrt(1 + sigmas**2)
        p, q, _, _ = _readings(alphas[:-1], (sigmas * alphas)[:-1], prediction)
        rows = _rows(p=p, q=q, **self._coefficients(sigmas, alphas))
        clipping = Clipping(None, self.dynamic, self.dynamic_most)
        return _plan(times, rows, clipping)

    def _solver_times(self, usable: int, total: int, steps: int) -> np.ndarray:
        times: np.ndarray
        if self.spacing == "linspace":
            times = np.linspace(0, usable - 1, steps + 1).round()[::-1][:-1]
        elif self.spacing == "leading":
            times = (np.arange(steps + 1) * (usable // (steps + 1)))[::-1][:-1] + self.offset
        else:
            times = np.arange(usable, 0, -total / steps)[:steps].round() - 1
        return self._within(times, total)

    def _coefficients(self, sigmas: np.ndarray, alphas: np.ndarray) -> dict[str, np.ndarray]:
        steps = len(sigmas) - 1
        with np.errstate(divide="ignore"):
            log_snr = -np.log(sigmas)  # infinite at the end, if that is without noise
        out = {name: np.zeros(steps) for name in ("a", "b", "h1", "h2", "s")}
        sharpness = 2.0 if self.stochastic else 1.0
        for k in range(steps):
            h = log_snr[k + 1] - log_snr[k]
            decay = np.exp(-sharpness * h)
            order = self._order(k, steps)
            out["a"][k] = sigmas[k + 1] * alphas[k + 1] / (sigmas[k] * alphas[k])
            if self.stochastic:
                out["a"][k] *= np.exp(-h)
                out["s"][k] = sigmas[k + 1] * alphas[k + 1] * np.sqrt(1 - decay)
            weights = np.zeros(3)  # of x0 now, one step ago, two steps ago
            weights[0] = 1 - decay
            if order > 1:  # first = (x0 - x0 before) / r, their slope
                r = (log_snr[k] - log_snr[k - 1]) / h
                slope = np.array([1.0, -1.0, 0.0]) / r
                by_heun = 1 - (1 - decay) / (sharpness * h)
                if order == 2:
                    weights += slope * (by_heun if self.solver == "heun" else (1 - decay) / 2)
                else:
                    r1 = (log_snr[k - 1] - log_snr[k - 2]) / h
                    slope1 = np.array([0.0, 1.0, -1.0]) / r1
                    first = slope + r / (r + r1) * (slope - slope1)
                    second = (slope - slope1) / (r + r1)
                    weights += first * by_heun
                    curve = (decay - 1 + sharpness * h) / (sharpness * h) ** 2
                    # diffusers adds the half in the SDE's solver, against its own derivation
                    weights -= second * (curve + 0.5 if self.stochastic else curve - 0.5)
            out["b"][k], out["h1"][k], out["h2"][k] = alphas[k + 1] * weights
        return out

    def _order(self, k: int, steps: int) -> int:
        """The order of step k: as many values as are known, and lower at the end."""
        short = self.lower_order_at_end and steps < 15
        left = steps - k
        if left == 1 and (short or self.first_order_at_end or self.final == "zero"):
            return 1
        return min(self.order, k + 1, 2 if short and left == 2 else 3)


class Euler(Sampler):
    """Euler's method on the probability flow (Karras et al. 2022, 2206.00364, algorithm 2).

    The state is x0 + sigma noise, not scaled down to unit variance.

    Attributes:
        karras: whether the noise levels are spaced as in that paper's equation 5.
        final: noise level after the last step: "zero", or "smallest", that of the first time.
        ancestral: part of each step's noise is drawn anew ("Euler ancestral").
    """

    spacing: Spacing = "linspace"
    karras: bool = False
    final: Literal["zero", "smallest"] = "zero"
    ancestral: bool = False

    def _plan(self, schedule: NoiseSchedule, steps: int, prediction: Prediction) -> Plan:
        levels = _levels(schedule)
        total = schedule.steps
        if self.spacing == "linspace":
            times = np.linspace(0, total - 1, steps)[::-1]  # fractions of a time, too
        else:
            times = self._times(total, steps).astype(np.float64)
        sigmas = np.interp(times, np.arange(total), levels)
        if self.karras:
            sigmas = _karras(sigmas[-1], sigmas[0], steps)
            times = _times_of(sigmas, levels)
        sigmas = np.append(sigmas, 0.0 if self.final == "zero" else levels[0])
        now, then = sigmas[:-1], sigmas[1:]
        up = np.zeros(steps)
        if self.ancestral:
            up = np.sqrt(then**2 * (now**2 - then**2) / now**2)
        change = np.sqrt(then**2 - up**2) - now
        p, q, r, s = _readings_of_level(now, prediction)
        rows = _rows(p=p, q=q, a=1 + change * r, c=change * s, s=up)
        most = sigmas.max()
        start = most if self.spacing != "leading" else np.sqrt(most**2 + 1)
        return _plan(times, rows, scales=1 / np.sqrt(now**2 + 1), start=float(start))


class PNDM(Sampler):
    """Pseudo numerical methods, linear multistep (Liu et al. 2022, 2202.09778, equation 12).

    What the folders of Stable Diffusion 1 name. One call more than `steps`: the first step is
    taken twice, the second time with the mean of both answers.

    Attributes:
        ends_at_one: whether the time before the first has a_t = 1; else that of the first.
    """

    ends_at_one: bool = False

    def _plan(self, schedule: NoiseSchedule, steps: int, prediction: Prediction) -> Plan:
        if prediction == "sample":
            raise ConfigError("PNDM is for networks that predict epsilon or v; found: sample")
        times = self._times(schedule.steps, steps)
        gap = schedule.steps // steps
        twice = steps > 1
        calls = np.concatenate([times[:2], times[1:]]) if twice else times
        told = calls.copy()
        if twice:  # the first step anew, from one gap before the second time
            told[1] += gap
        left, before = _pairs(schedule, told, told - gap, one=self.ends_at_one)
        _, _, r, s = _readings(np.sqrt(left), np.sqrt(1 - left), prediction)
        pull = (before - left) / (left * np.sqrt(1 - before) + np.sqrt(left * (1 - left) * before))
        a, o = np.sqrt(before / left) - pull * r, -pull * s
        mixes = {  # by call: of the answers now and 1 to 4 calls ago; the second call's is left out
            0: (1, 0, 0, 0, 0),
            2: (3 / 2, 0, -1 / 2, 0, 0),
            3: (23 / 12, -16 / 12, 0, 5 / 12, 0),
            4: (55 / 24, -59 / 24, 37 / 24, 0, -9 / 24),
        }
        usual = (55 / 24, -59 / 24, 37 / 24, -9 / 24, 0)
        weights = np.array([mixes.get(k, usual) for k in range(len(calls))]) * o[:, None]
        if twice:  # back to where it began, (x - o past_1) / a, and on with the mean of both
            a[1] /= a[0]
            weights[1] = (o[1] / 2, o[1] / 2 - a[1] * o[0], 0, 0, 0)
        past = {f"h{k}": weights[:, k] for k in range(1, 5)}
        rows = _rows(p=np.zeros(len(calls)), a=a, c=weights[:, 0], **past)
        return _plan(calls, rows, remembers="out")


SAMPLERS: dict[str, Sampler] = {
    "ddim": DDIM(),
    "ddpm": DDPM(),
    "dpm++": DPMSolver(),
    "dpm++karras": DPMSolver(karras=True),
    "euler": Euler(),
    "euler_ancestral": Euler(ancestral=True),
    "pndm": PNDM(),
}


def make_sampler(sampler: str | Sampler) -> Sampler:
    """A sampler by its name in `SAMPLERS`, or as it is.

    Raises:
        ConfigError: no such name.
    """
    if isinstance(sampler, Sampler):
        return sampler
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler {sampler!r}: expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[sampler]


def _plan(
    times: np.ndarray,
    table: np.ndarray,
    clipping: Clipping | None = None,
    *,
    scales: np.ndarray | None = None,
    start: float = 1.0,
    remembers: Literal["x0", "out"] = "x0",
) -> Plan:
    first = COLUMNS.index("h1")
    used = np.any(table[:, first : first + MOST_PAST] != 0, axis=0)
    kind = Kind(
        clipping=clipping or Clipping(),
        remembers=remembers,
        memory=int(np.max(np.flatnonzero(used) + 1, initial=0)),
        stochastic=bool(np.any(table[:, COLUMNS.index("s")])),
    )
    scales = np.ones(len(times)) if scales is None else scales
    return Plan(times.astype(np.float64), scales, table, start, kind)


def _quantile(values: Tensor, share: float) -> Tensor:
    """Of each image's values, interpolated: [B, 1, …]. Keras's own counts in float32 alone."""
    ranked = ops.sort(ops.reshape(values, (ops.shape(values)[0], -1)), axis=1)
    last = ops.cast(ops.shape(ranked)[1] - 1, "float64")
    below = ops.floor(last * share)
    part = ops.cast(last * share - below, values.dtype)
    low = ops.take(ranked, ops.cast(below, "int32"), axis=1)
    high = ops.take(ranked, ops.cast(ops.minimum(below + 1, last), "int32"), axis=1)
    return ops.reshape(low + part * (high - low), (-1, *(1,) * (len(values.shape) - 1)))


def _rows(**columns: np.ndarray) -> np.ndarray:
    table = np.zeros((len(columns["p"]), len(COLUMNS)))
    for name, values in columns.items():
        table[:, COLUMNS.index(name)] = values
    return table


def _pairs(
    schedule: NoiseSchedule, times: np.ndarray, earlier: np.ndarray, *, one: bool
) -> tuple[np.ndarray, np.ndarray]:
    """a_t at the times and at those that come next; before time 0 it is 1 or that of time 0."""
    left = schedule.alphas_cumprod
    end = 1.0 if one else left[0]
    return left[times], np.where(earlier >= 0, left[np.maximum(earlier, 0)], end)


def _readings(
    alpha: np.ndarray, sigma: np.ndarray, prediction: Prediction
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(p, q, r, s): x0 = p x + q out, noise = r x + s out, where x = alpha x0 + sigma noise."""
    none, one = np.zeros_like(alpha), np.ones_like(alpha)
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha, none, one
    if prediction == "sample":
        return none, one, 1 / sigma, -alpha / sigma
    return alpha, -sigma, sigma, alpha


def _readings_of_level(
    sigma: np.ndarray, prediction: Prediction
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same where x = x0 + sigma noise."""
    alpha = 1 / np.sqrt(1 + sigma**2)
    p, q, r, s = _readings(alpha, sigma * alpha, prediction)
    return p * alpha, q, r * alpha, s


def _levels(schedule: NoiseSchedule) -> np.ndarray:
    """sigma of x0 + sigma noise at each time, rising."""
    left = schedule.alphas_cumprod.copy()
    if schedule.zero_snr:
        left[-1] = SMALLEST_SIGNAL
    return np.sqrt((1 - left) / left)


def _karras(least: float, most: float, steps: int) -> np.ndarray:
    ramp = np.linspace(0, 1, steps)
    low, high = least ** (1 / RHO), most ** (1 / RHO)
    return (high + ramp * (low - high)) ** RHO


def _times_of(sigmas: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """At which time, with fractions, the schedule has these levels: linear in their logarithm."""
    return np.interp(np.log(sigmas), np.log(levels), np.arange(len(levels)))
