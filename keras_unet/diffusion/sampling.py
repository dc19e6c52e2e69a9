"""From noise to images: one compiled trajectory with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_unet.diffusion import noise as noises
from keras_unet.diffusion.samplers import Plan, State, initial_state, trajectory
from keras_unet.errors import ConfigError

Tensor = Any
CONCAT = "concat"  # the condition that is joined to the sample's channels


def guide(negative: Tensor, positive: Tensor, scale: Any, rescale: Any = 0.0) -> Tensor:
    """Classifier-free guidance (Ho, Salimans 2022, 2207.12598), rescaled as in 2305.08891.

    Args:
        negative: the network's answer without the condition (or for what is not wanted) [B, …].
        positive: with it.
        scale: 1 is `positive` itself; more exaggerates the difference.
        rescale: 0 to 1: how far each image's standard deviation is brought back to that of
            `positive` (equations 15 and 16), against overexposure.

    Returns:
        [B, …].
    """
    guided = negative + scale * (positive - negative)
    if isinstance(rescale, (int, float)) and rescale == 0:
        return guided
    axes = tuple(range(1, len(guided.shape)))
    # torch's standard deviation divides by n - 1; in the ratio that falls out.
    ratio = ops.std(positive, axis=axes, keepdims=True) / ops.std(guided, axis=axes, keepdims=True)
    return rescale * (guided * ratio) + (1 - rescale) * guided


class Trajectory:
    """Runs plans with one network; each kind of run is compiled once.

    Args:
        unet: inputs by name, `sample` and `timestep` and its conditions.
    """

    def __init__(self, unet: keras.Model) -> None:
        self.unet = unet
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(
        self,
        plan: Plan,
        noise: Tensor,
        condition: Mapping[str, Tensor],
        negative: Mapping[str, Tensor] | None = None,
        *,
        guidance: float = 1.0,
        guidance_rescale: float = 0.0,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The last state's x.

        Args:
            plan: of the sampler.
            noise: standard normal [B, H, W, C]; its dtype is that of the whole run.
            condition: the network's further inputs by name, [B, …]; `CONCAT` [B, H, W, K] is
                joined to the sample.
            negative: the same for what guidance leads away from; None: no guidance.
            guidance: see `guide`; at most 1 skips it.
            guidance_rescale: see `guide`.
            seed: of the noise that stochastic samplers add.
            progress: called with (steps done, steps in all) after each step. The result is the
                same to the bit with and without.

        Returns:
            [B, H, W, C] of the noise's dtype.
        """
        guided = negative is not None and guidance > 1
        key = (plan.kind, guided, guidance_rescale > 0)
        if key not in self._compiled:
            self._compiled[key] = _compile(self._run(*key), self.unet)
        state = initial_state(plan, noise)
        dtype = state.x.dtype
        numbers = {
            "times": plan.times,
            "scales": plan.scales,
            "table": plan.table,
            "guidance": guidance,
            "rescale": guidance_rescale,
        }
        numbers = {name: ops.convert_to_tensor(v, dtype=dtype) for name, v in numbers.items()}
        words = ops.convert_to_tensor(noises.seed_words(seed), dtype="uint32")
        condition = {name: ops.convert_to_tensor(value) for name, value in condition.items()}
        if guided and negative is not None:
            condition = {
                name: ops.concatenate([ops.cast(negative[name], value.dtype), value])
                for name, value in condition.items()
            }
        bounds = [(0, len(plan))] if progress is None else [(k, k + 1) for k in range(len(plan))]
        for first, last in bounds:
            state = self._compiled[key](
                state,
                condition,
                numbers,
                words,
                ops.convert_to_tensor(first, dtype="int32"),
                ops.convert_to_tensor(last, dtype="int32"),
            )
            if progress is not None:
                progress(last, len(plan))
        return state.x

    def _run(self, kind: Any, guided: bool, rescaled: bool) -> Callable[..., State]:
        def run(
            unet: Callable[[dict[str, Tensor]], Tensor],
            state: State,
            condition: dict[str, Tensor],
            numbers: dict[str, Tensor],
            words: Tensor,
            first: Tensor,
            last: Tensor,
        ) -> State:
            plan = Plan(numbers["times"], numbers["scales"], numbers["table"], 1.0, kind)
            state = State(*state)
            shape, dtype = ops.shape(state.x), state.x.dtype

            def network(x: Tensor, time: Tensor) -> Tensor:
                x = ops.concatenate([x, x]) if guided else x
                inputs = network_inputs(x, ops.broadcast_to(time, ops.shape(x)[:1]), condition)
                answer = ops.cast(unet(inputs), dtype)
                if not guided:
                    return answer
                half = shape[0]
                rescale = numbers["rescale"] if rescaled else 0.0
                return guide(answer[:half], answer[half:], numbers["guidance"], rescale)

            def noise(index: Tensor) -> Tensor:
                return noises.normal(words, index, shape, dtype)

            return trajectory(plan, state, network, noise, first, last)

        return run


def network_inputs(x: Tensor, times: Tensor, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the U-Net is called with: `CONCAT` joins the sample's channels."""
    inputs = {name: value for name, value in condition.items() if name != CONCAT}
    if CONCAT in condition:
        x = ops.concatenate([x, ops.cast(condition[CONCAT], x.dtype)], axis=-1)
    return {"sample": x, "timestep": times, **inputs}


def _compile(function: Callable[..., State], unet: keras.Model) -> Callable[..., State]:
    """`function(unet, …)` compiled by the backend; the weights are those at each call."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda *args: function(_call(unet), *args))
    if backend == "jax":
        import jax

        def stateless(weights: Any, *args: Any) -> State:
            def call(inputs: dict[str, Tensor]) -> Tensor:
                return unet.stateless_call(*weights, inputs, training=False)[0]

            return function(call, *args)

        compiled = jax.jit(stateless)

        def run(*args: Any) -> State:
            weights = [
                [variable.value for variable in variables]
                for variables in (unet.trainable_variables, unet.non_trainable_variables)
            ]
            return compiled(weights, *args)

        return run
    return lambda *args: function(_call(unet), *args)


def _call(unet: keras.Model) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda inputs: unet(inputs, training=False)


def check_seed(seed: int | None) -> int:
    """The seed itself, or one drawn by chance where there is none."""
    if seed is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise ConfigError(f"seed {seed!r}: expected an integer or None")
    return int(seed)
