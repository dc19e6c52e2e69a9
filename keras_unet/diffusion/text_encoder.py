"""`build_text_encoder`: CLIP's text transformer (Radford et al. 2021, 2103.00020).

Token numbers to one vector a token: the context that Stable Diffusion attends to.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import layers, ops

from keras_unet.diffusion.blocks import float_dtype, gelu, register
from keras_unet.diffusion.options import completed
from keras_unet.diffusion.presets import preset_options
from keras_unet.errors import ConfigError

# Configurations of old files say 2 whatever the end token is; its number is then the highest.
HIGHEST = 2


def build_text_encoder(
    vocabulary_size: int = 49408,
    *,
    hidden_size: int = 768,
    intermediate_size: int = 3072,
    layers: int = 12,
    heads: int = 12,
    max_length: int = 77,
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu",
    norm_epsilon: float = 1e-5,
    projection_dim: int | None = None,
    bos_token: int = 49406,
    eos_token: int = 49407,
    pad_token: int = 49407,
    dtype: Any = None,
    name: str = "text_encoder",
) -> TextEncoder:
    """Builds a CLIP text encoder; transformers' CLIPTextModel, or …WithProjection.

    Args:
        vocabulary_size: different tokens.
        hidden_size: width D of a token's vector.
        intermediate_size: width of the dense layer in each block.
        layers: transformer blocks; each token attends to itself and those before it.
        heads: of each attention; they divide hidden_size.
        max_length: most tokens T of a text.
        activation: "quick_gelu", x · sigmoid(1.702 x), of OpenAI's weights, or "gelu".
        norm_epsilon: of the layer norms.
        projection_dim: width of a last projection of the pooled vector, without bias; None: none.
        bos_token, eos_token, pad_token: begin, end and filling. The pooled vector is that of the
            first end token; of the highest token if `eos_token` is 2 (old files).
        dtype: dtype or Keras dtype policy of all layers; None is Keras's global policy.
        name: of the model.

    Returns:
        A functional model from integers [B, T] to a dictionary: `last_hidden_state` [B, T, D]
        after the final layer norm, `penultimate` [B, T, D], the input of the last block under the
        same norm (Stable Diffusion's clip_skip 1), `pooled` [B, D], or [B, projection_dim] if there
        is a projection. float32, float64 under float64.

    Raises:
        ConfigError (a ValueError): an argument is out of range.
    """
    return TextEncoder(**locals())


@register
class TextEncoder(keras.Model):
    """The model that `build_text_encoder` returns; it is saved as that function's arguments.

    Attributes:
        options: the arguments, with every default written out.
    """

    def __init__(self, *, name: str = "text_encoder", dtype: Any = None, **options: Any):
        options = completed(build_text_encoder, options)
        _check(options)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        super().__init__(*_network(policy, **options), name=name)
        self.options = options
        self.policy = policy

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> TextEncoder:
        """The text encoder of a preset, with random weights; `options` replace its own."""
        return cls(**{**preset_options(preset, "text_encoder"), **options})

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Of integers [B, T], or of {"input_ids": integers}."""
        ids = inputs["input_ids"] if isinstance(inputs, dict) else inputs
        return super().call([ops.convert_to_tensor(ids)], training=training)

    def get_config(self) -> dict[str, Any]:
        dtype = keras.dtype_policies.serialize(self.policy)
        return {**self.options, "dtype": dtype, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> TextEncoder:
        return cls(**config)


def _network(policy: Any, **o: Any) -> tuple[Any, dict[str, Any]]:
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    size, epsilon = o["hidden_size"], o["norm_epsilon"]
    states = [
        TokenEmbeddings(
            o["vocabulary_size"], o["max_length"], size, dtype=policy, name="embeddings"
        )(ids)
    ]
    for i in range(o["layers"]):
        block = TextBlock(
            o["heads"],
            o["intermediate_size"],
            o["activation"],
            epsilon,
            dtype=policy,
            name=f"encoder_layers_{i}",
        )
        states.append(block(states[-1]))
    norm = layers.LayerNormalization(
        axis=-1, epsilon=epsilon, dtype=policy, name="final_layer_norm"
    )
    last = norm(states[-1])
    pooled = Pool(o["eos_token"], dtype=policy, name="pool")(last, ids)
    if o["projection_dim"] is not None:
        pooled = layers.Dense(
            o["projection_dim"], use_bias=False, dtype=policy, name="text_projection"
        )(pooled)
    outputs = {"last_hidden_state": last, "penultimate": norm(states[-2]), "pooled": pooled}
    precise = {
        key: layers.Activation("linear", dtype=float_dtype(policy), name=key)(value)
        for key, value in outputs.items()
    }
    return [ids], precise


@register
class TokenEmbeddings(layers.Layer):
    """Integers [B, T] to vectors [B, T, size]: that of the token and that of its place, added."""

    def __init__(self, vocabulary_size: int, max_length: int, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length
        self.size = size
        dtype = self.dtype_policy
        self.token_embedding = layers.Embedding(
            vocabulary_size, size, dtype=dtype, name="token_embedding"
        )
        self.position_embedding = layers.Embedding(
            max_length, size, dtype=dtype, name="position_embedding"
        )

    def build(self, ids_shape: Any) -> None:
        self.token_embedding.build(ids_shape)
        self.position_embedding.build(ids_shape)

    def call(self, ids: Any) -> Any:
        length = ops.shape(ids)[1]
        if isinstance(length, int) and length > self.max_length:
            raise ConfigError(f"{length} tokens; this text encoder takes at most {self.max_length}")
        return self.token_embedding(ids) + self.position_embedding(
            ops.arange(length, dtype="int32")
        )

    def compute_output_shape(self, ids_shape: Any) -> tuple[Any, ...]:
        return (*ids_shape, self.size)

    def compute_output_spec(self, ids: Any) -> Any:
        return keras.KerasTensor(self.compute_output_shape(ids.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "max_length": self.max_length,
            "size": self.size,
        }


@register
class TextBlock(layers.Layer):
    """Causal self-attention and two dense layers over [B, T, D]; each after a norm, each added."""

    def __init__(
        self, heads: int, intermediate_size: int, activation: str, epsilon: float, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.heads = heads
        self.intermediate_size = intermediate_size
        self.activation = activation
        self.epsilon = epsilon
        dtype = self.dtype_policy
        self.layer_norm1, self.layer_norm2 = (
            layers.LayerNormalization(axis=-1, epsilon=epsilon, dtype=dtype, name=f"layer_norm{i}")
            for i in (1, 2)
        )
        self.fc1 = layers.Dense(intermediate_size, dtype=dtype, name="mlp_fc1")

    def build(self, x_shape: Any) -> None:
        size, dtype = x_shape[-1], self.dtype_policy
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            layers.Dense(size, dtype=dtype, name=f"self_attn_{x}_proj")
            for x in ("q", "k", "v", "out")
        )
        self.fc2 = layers.Dense(size, dtype=dtype, name="mlp_fc2")
        for part in (self.layer_norm1, self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            part.build(x_shape)
        for part in (self.layer_norm2, self.fc1):
            part.build(x_shape)
        self.fc2.build((*x_shape[:-1], self.intermediate_size))

    def call(self, x: Any) -> Any:
        size = x.shape[-1]
        h = self.layer_norm1(x)
        query, key, value = (
            ops.reshape(project(h), (-1, ops.shape(h)[1], self.heads, size // self.heads))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        # Not by the argument `scale`, which is float32 on TensorFlow.
        query = query * (size // self.heads) ** -0.5
        h = ops.dot_product_attention(query, key, value, scale=1.0, is_causal=True)
        x = x + self.out_proj(ops.reshape(h, (-1, ops.shape(h)[1], size)))
        h = self.fc1(self.layer_norm2(x))
        h = h * ops.sigmoid(1.702 * h) if self.activation == "quick_gelu" else gelu(h)
        return x + self.fc2(h)

    def compute_output_shape(self, x_shape: Any) -> Any:
        return x_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "heads": self.heads,
            "intermediate_size": self.intermediate_size,
            "activation": self.activation,
            "epsilon": self.epsilon,
        }


@register
class Pool(layers.Layer):
    """The vector of the end token: [B, T, D] and integers [B, T] to [B, D]."""

    def __init__(self, eos_token: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.eos_token = eos_token

    def call(self, x: Any, ids: Any) -> Any:
        found = ids if self.eos_token == HIGHEST else ops.equal(ids, self.eos_token)
        place = ops.argmax(ops.cast(found, "int32"), axis=-1)  # the first of equals
        picked = ops.take_along_axis(x, ops.expand_dims(place, (1, 2)), axis=1)
        return ops.squeeze(picked, axis=1)

    def compute_output_shape(self, x_shape: Any, ids_shape: Any) -> tuple[Any, ...]:
        return (x_shape[0], x_shape[2])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "eos_token": self.eos_token}


def _check(options: dict[str, Any]) -> None:
    for key in ("vocabulary_size", "hidden_size", "intermediate_size", "layers", "heads"):
        number = options[key]
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(f"{key} must be an integer >= 1, got {number!r}")
    if options["hidden_size"] % options["heads"]:
        raise ConfigError(
            f"hidden_size {options['hidden_size']} cannot be shared among {options['heads']} heads"
        )
    if options["activation"] not in ("quick_gelu", "gelu"):
        raise ConfigError(
            f'activation must be "quick_gelu" or "gelu", got {options["activation"]!r}'
        )
