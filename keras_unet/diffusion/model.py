"""Diffusion model: a U-Net that learns which noise was added, and the trajectory it draws by."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_unet.diffusion import noise as noises
from keras_unet.diffusion.noise import NoiseSchedule, Prediction
from keras_unet.diffusion.samplers import (
    Plan,
    Sampler,
    State,
    initial_state,
    make_sampler,
    trajectory,
)
from keras_unet.errors import ConfigError

Tensor = Any
CONCAT = "concat"  # the condition that is joined to the sample's channels


@keras.saving.register_keras_serializable("keras_unet")
class DiffusionModel(keras.Model):
    """Denoising diffusion in pixels, or in the latents of an autoencoder (2112.10752).

    `fit` takes images [B, H, W, C] float32, from -1 to 1, or (images, condition). A condition is
    one of the U-Net's further inputs, or a dict of them by name:

    - `class_labels`: int [B];
    - `context`: float [B, tokens, width];
    - "concat": what is joined to the sample's channels, where the U-Net takes K channels more
      than it returns: a mask, int [B, H, W] with classes 0 to K - 1, or float [B, H, W, K].

    What is drawn for a training step depends on the seed and the number of the step alone, both
    of which are among the model's variables: a run that goes on from saved weights goes on to the
    same bits.

    Example:
        >>> from keras_unet import diffusion
        >>> unet = diffusion.build_diffusion_unet((8, 8, 1), filters=(32, 64))
        >>> model = diffusion.DiffusionModel(unet)
        >>> model.compile("adam")
        >>> _ = model.fit(images, epochs=1)
        >>> model.sample(steps=10, seed=1, count=4).shape
        (4, 8, 8, 1)

    Args:
        unet: of `build_diffusion_unet`.
        autoencoder: of `build_autoencoder`, which is not trained; None works on pixels.
        schedule: of the noise; None is the linear one with 1000 times.
        prediction: "epsilon", "sample" or "v": what the network answers.
        condition_dropout: share of the images that are shown without their condition, so that
            guidance has something to lead away from.
        unconditional: the class that stands for "none", where the condition is a class. Contexts
            and masks are zeros then.
        gamma: of min-SNR weighting (2303.09556; 5 is usual); None: all times count alike.
        average: decay of the exponential moving average of the weights, which `sample` uses. It
            starts with a lower one, (1 + n) / (10 + n) after n steps. None: no average.
        seed: of what is drawn in training.
        name: of the model.

    Raises:
        ConfigError: the U-Net, the autoencoder and the options don't fit each other.
    """

    def __init__(
        self,
        unet: keras.Model,
        autoencoder: Any = None,
        schedule: NoiseSchedule | None = None,
        prediction: Prediction = "epsilon",
        *,
        condition_dropout: float = 0.0,
        unconditional: int | None = None,
        gamma: float | None = None,
        average: float | None = 0.999,
        seed: int = 0,
        name: str = "diffusion",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if prediction not in ("epsilon", "sample", "v"):
            raise ConfigError(f"prediction {prediction!r}: expected 'epsilon', 'sample' or 'v'")
        if not 0 <= condition_dropout < 1:
            raise ConfigError(f"condition_dropout {condition_dropout}: expected 0 to 1 (exclusive)")
        if average is not None and not 0 < average < 1:
            raise ConfigError(f"average {average}: expected a decay between 0 and 1, or None")
        self.unet = unet
        self.autoencoder = autoencoder
        self.schedule = schedule or NoiseSchedule()
        self.prediction: Prediction = prediction
        self.condition_dropout = condition_dropout
        self.unconditional = unconditional
        self.gamma = gamma
        self.average = average
        self.seed = seed
        self._given = _condition_inputs(unet)
        if "class_labels" in self._given and condition_dropout and unconditional is None:
            raise ConfigError(
                "condition_dropout needs a class that stands for none: give the U-Net one class "
                "more, and its number as unconditional="
            )
        if autoencoder is not None:
            autoencoder.trainable = False
        self.averaged = None
        if average is not None:
            self.averaged = keras.models.clone_model(unet)
            self.averaged.set_weights(unet.get_weights())
            self.averaged.trainable = False
        # Steps so far: what is drawn in the next one depends on it.
        self.draws = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="draws"
        )
        self._weights = self.schedule.loss_weights(prediction, gamma).astype(np.float32)
        self._trajectory: Trajectory | None = None
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """The images themselves: what is learned from them is decided in `compute_loss`."""
        return inputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Mean squared error of the prediction at one random time for each image.

        Args:
            x: images [B, H, W, C].
            y: their condition, or None.
            y_pred: not read.
            sample_weight: float [B], or None.
            training: False draws the same times and noise for every batch.

        Returns:
            A scalar.
        """
        turn = ops.cast(self.draws if training else np.uint32(noises.START), "uint32")
        words = noises.split(noises.seed_words(self.seed), turn)
        clean = self._encode(x, words)
        shape = ops.shape(clean)
        chance = noises.uniform(words, _TIMES, shape[0])
        times = ops.cast(chance * self.schedule.steps, "int32")
        noise = noises.normal(words, noises.START, shape, clean.dtype)
        noisy = self.schedule.add_noise(clean, noise, times)
        condition = self._condition(y, clean)
        if training and self.condition_dropout and condition:
            shown = noises.uniform(words, _DROPS, shape[0]) >= self.condition_dropout
            none = self._none(condition)
            condition = {
                key: ops.where(_wide(shown, value), value, none[key])
                for key, value in condition.items()
            }
        answer = self.unet(network_inputs(noisy, times, condition), training=training)
        target = self.schedule.target(clean, noise, times, self.prediction)
        error = ops.square(ops.cast(answer, target.dtype) - target)
        loss = ops.mean(error, axis=tuple(range(1, len(error.shape))))
        loss = loss * ops.take(ops.convert_to_tensor(self._weights, dtype=loss.dtype), times)
        if sample_weight is not None:
            loss = loss * ops.reshape(ops.cast(sample_weight, loss.dtype), (-1,))
        if training:
            self.draws.assign_add(1)
        return ops.mean(loss)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's step, then the average of the weights."""
        result = super().train_step(*args, **kwargs)
        if self.averaged is None:
            return result
        if keras.backend.backend() != "jax":
            self._update_average()
            return result
        logs, (trainable, fixed, *rest) = result
        mapping = [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.non_trainable_variables, fixed, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self._update_average()
        after = [scope.get_current_value(variable) for variable in self.non_trainable_variables]
        fixed = [old if new is None else new for old, new in zip(fixed, after, strict=True)]
        return logs, (trainable, fixed, *rest)

    def _update_average(self) -> None:
        if self.averaged is None or self.average is None:
            return
        count = ops.cast(self.draws, "float32")
        decay = ops.minimum(self.average, (1.0 + count) / (10.0 + count))
        for mean, now in zip(self.averaged.variables, self.unet.variables, strict=True):
            if not keras.backend.is_float_dtype(mean.dtype):
                mean.assign(now)
                continue
            mean.assign(mean + ops.cast(1.0 - decay, mean.dtype) * (now - mean))

    def sample(
        self,
        condition: Any = None,
        steps: int = 50,
        guidance: float = 1.0,
        seed: int | None = None,
        *,
        count: int = 1,
        size: tuple[int, int] | None = None,
        sampler: str | Sampler = "ddim",
        guidance_rescale: float = 0.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Images from noise.

        Args:
            condition: as in `fit`, for as many images as are wanted; None where the network takes
                none, or for images of no condition.
            steps: of the sampler.
            guidance: 1 takes the condition as it was learned; more exaggerates it.
            seed: of the noise; the same gives the same images. None draws one.
            count: how many images, where there is no condition.
            size: (height, width) of the images; None: that of a mask, else the U-Net's own.
            sampler: a name in `keras_unet.diffusion.SAMPLERS`, or a configured one. One that is
                named does not clip latents.
            guidance_rescale: see `keras_unet.diffusion.guide`.
            progress: called with (steps done, steps in all).

        Returns:
            float32 [B, H, W, C], in the units that were learned (-1 to 1), not clipped.

        Raises:
            ConfigError: steps, sampler, size or condition do not fit.
        """
        network = self.unet if self.averaged is None else self.averaged
        if self._trajectory is None or self._trajectory.unet is not network:
            self._trajectory = Trajectory(network)
        chosen = make_sampler(sampler)
        if self.autoencoder is not None and isinstance(sampler, str) and hasattr(chosen, "clip"):
            chosen = chosen.model_copy(update={"clip": None})  # latents go beyond -1 … 1
        plan = chosen.plan(self.schedule, steps, self.prediction)
        if condition is not None:
            first = next(iter(condition.values())) if isinstance(condition, Mapping) else condition
            count = int(np.shape(first)[0])
        elif count < 1:
            raise ConfigError(f"count {count}: expected at least 1")
        if guidance > 1 and condition is None and self._given:
            raise ConfigError("guidance above 1 leads towards a condition; found none")
        if guidance > 1 and "class_labels" in self._given and self.unconditional is None:
            warnings.warn(
                "no class stands for none (unconditional=): guidance leads away from class 0",
                stacklevel=2,
            )
        height, width = self._latent_size(size, condition)
        words = noises.seed_words(check_seed(seed))
        start = noises.normal(words, noises.START, (count, height, width, self._channels))
        given = self._condition(condition, start)
        none = self._none(given)
        x = self._trajectory(
            plan,
            start,
            given,
            none if guidance > 1 else None,
            guidance=guidance,
            guidance_rescale=guidance_rescale,
            seed=int(words[0]) | int(words[1]) << 32,
            progress=progress,
        )
        return np.asarray(ops.convert_to_numpy(self._decode(x)), np.float32)

    @property
    def _channels(self) -> int:
        return int(self.unet.outputs[0].shape[-1])

    def _encode(self, images: Tensor, words: Tensor) -> Tensor:
        images = ops.convert_to_tensor(images)
        if not keras.backend.is_float_dtype(images.dtype):
            found = keras.backend.standardize_dtype(images.dtype)
            raise ConfigError(f"images of {found}; expected float, from -1 to 1")
        if self.autoencoder is None:
            return images
        mean, log_variance = ops.split(self.autoencoder.moments(images), 2, axis=-1)
        noise = noises.normal(words, _ENCODING, ops.shape(mean), mean.dtype)
        latents = mean + ops.exp(0.5 * ops.clip(log_variance, -30.0, 20.0)) * noise
        return self.autoencoder.scale(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        if self.autoencoder is None:
            return latents
        return self.autoencoder.decode(self.autoencoder.unscale(latents))

    def _latent_size(self, size: tuple[int, int] | None, condition: Any) -> tuple[int, int]:
        factor = 1 if self.autoencoder is None else self.autoencoder.stride
        mask = condition.get(CONCAT) if isinstance(condition, Mapping) else condition
        if size is None and CONCAT in self._given and mask is not None:
            size = (int(np.shape(mask)[1]), int(np.shape(mask)[2]))
        if size is None:
            height, width = _sample_input(self.unet).shape[1:3]
            if height is None or width is None:
                meant = getattr(self.unet, "options", {}).get("sample_size")
                if meant is None:
                    raise ConfigError("the U-Net takes any size; expected size=(height, width)")
                height, width = (meant, meant) if isinstance(meant, int) else meant
            return int(height), int(width)
        if any(n < 1 or n % factor for n in size):
            raise ConfigError(f"size {size}: expected multiples of {factor}")
        return size[0] // factor, size[1] // factor

    def _condition(self, condition: Any, like: Tensor) -> dict[str, Tensor]:
        """The U-Net's further inputs by name, masks as channels of the latents' size."""
        if not self._given:
            if condition is not None:
                raise ConfigError("this U-Net takes no condition; found one")
            return {}
        if condition is None:
            return self._none(self._empty(like))
        if not isinstance(condition, Mapping):
            if len(self._given) > 1:
                raise ConfigError(f"expected conditions by name: {', '.join(self._given)}")
            condition = {next(iter(self._given)): condition}
        if set(condition) != set(self._given):
            raise ConfigError(
                f"conditions {', '.join(sorted(condition))}; expected "
                + ", ".join(sorted(self._given))
            )
        out = {name: ops.convert_to_tensor(value) for name, value in condition.items()}
        if CONCAT in out:
            out[CONCAT] = self._mask_channels(out[CONCAT], like)
        return out

    def _mask_channels(self, mask: Tensor, like: Tensor) -> Tensor:
        channels = self._given[CONCAT][-1]
        if len(mask.shape) == 3:
            mask = ops.one_hot(ops.cast(mask, "int32"), channels, dtype=like.dtype)
        mask = ops.cast(mask, like.dtype)
        if mask.shape[-1] != channels:
            raise ConfigError(f"a mask of {mask.shape[-1]} channels; expected {channels}")
        size = tuple(mask.shape[1:3])
        same = size == tuple(like.shape[1:3]) and None not in size
        if not same and self.autoencoder is not None:
            mask = ops.average_pool(
                mask, self.autoencoder.stride, padding="valid", data_format="channels_last"
            )
        return mask

    def _empty(self, like: Tensor) -> dict[str, Tensor]:
        """Zeros for each of the U-Net's conditions."""
        if "class_labels" in self._given and self.unconditional is None:
            raise ConfigError("this U-Net takes a class; found no condition")
        out = {}
        for name, shape in self._given.items():
            if name == CONCAT:
                shape = (*ops.shape(like)[1:-1], shape[-1])
            dtype = "int32" if name == "class_labels" else like.dtype
            out[name] = ops.zeros((ops.shape(like)[0], *(n or 1 for n in shape)), dtype=dtype)
        return out

    def _none(self, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What stands for no condition, in the shapes of one."""
        out = {name: ops.zeros_like(value) for name, value in condition.items()}
        if "class_labels" in out and self.unconditional is not None:
            out["class_labels"] = out["class_labels"] + self.unconditional
        return out

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            unet=keras.saving.serialize_keras_object(self.unet),
            autoencoder=keras.saving.serialize_keras_object(self.autoencoder),
            schedule=self.schedule.model_dump(mode="json"),
            prediction=self.prediction,
            condition_dropout=self.condition_dropout,
            unconditional=self.unconditional,
            gamma=self.gamma,
            average=self.average,
            seed=self.seed,
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DiffusionModel:
        config = dict(config)
        for part in ("unet", "autoencoder"):
            config[part] = keras.saving.deserialize_keras_object(config[part])
        config["schedule"] = NoiseSchedule(**config["schedule"])
        return cls(**config)


def _sample_input(unet: keras.Model) -> Any:
    return unet.input["sample"]


def _condition_inputs(unet: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """Name -> shape without the batch of what the network takes beside sample and time."""
    inputs = getattr(unet, "input", None)  # which a network that was never called has not
    if not isinstance(inputs, Mapping) or "sample" not in inputs:
        raise ConfigError("expected a network of build_diffusion_unet: inputs by name")
    shapes = {
        name: tuple(tensor.shape[1:])
        for name, tensor in unet.input.items()
        if name not in ("sample", "timestep")
    }
    joined = int(_sample_input(unet).shape[-1]) - int(unet.outputs[0].shape[-1])
    if joined < 0:
        raise ConfigError(
            "the U-Net returns more channels than it takes: learned variances are not supported"
        )
    if joined:
        shapes[CONCAT] = (None, None, joined)
    return shapes


def _wide(per_image: Tensor, like: Tensor) -> Tensor:
    return ops.reshape(per_image, (-1, *(1,) * (len(like.shape) - 1)))


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


def check_seed(seed: int | None) -> int:
    """The seed itself, or one drawn by chance where there is none."""
    if seed is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise ConfigError(f"seed {seed!r}: expected an integer or None")
    return int(seed)


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


_TIMES, _DROPS, _ENCODING = noises.START - 1, noises.START - 2, noises.START - 3
