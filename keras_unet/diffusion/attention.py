"""Attention: within a picture, and from a picture to its context (text, a mask's tokens).

Vaswani et al. 2017 (1706.03762); the spatial transformer is that of Rombach et al. 2022
(2112.10752, section 3.3). Tokens are pixels, row by row: token = y · width + x.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from keras_unet.diffusion.blocks import Block, GroupNorm, gelu, register

# The most scores (batch · heads · queries · keys) that are in memory at a time: 16 MB in float32,
# which is also what a processor's cache holds: at 4096 tokens 2.5 times as fast as in one piece.
MAX_SCORES = 2**22


def attention(query: Any, key: Any, value: Any, heads: int, upcast: bool = False) -> Any:
    """softmax(q kᵀ / sqrt(width of a head)) v, for each head.

    Where Keras has a fused kernel that never holds the scores, it is taken. Elsewhere the queries
    are cut into blocks of at most `MAX_SCORES` scores, one after the other; their gradients
    compute the scores of each block again.

    Args:
        query: [B, T, heads · D]; key, value: [B, S, heads · D].
        heads: how many.
        upcast: compute in float32 even if the inputs are of half precision (SD 2.1 needs it in
            float16).

    Returns:
        [B, T, heads · D], of the query's dtype.
    """
    dtype = query.dtype
    if upcast and keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16"):
        query, key, value = (ops.cast(x, "float32") for x in (query, key, value))
    width = query.shape[-1] // heads
    query, key, value = (
        ops.reshape(x, (-1, ops.shape(x)[1], heads, width)) for x in (query, key, value)
    )
    if _fused(query.dtype):
        out = ops.dot_product_attention(query, key, value, scale=width**-0.5)
    else:
        out = _in_blocks(query, key, value)
    return ops.cast(ops.reshape(out, (-1, ops.shape(out)[1], heads * width)), dtype)


def _fused(dtype: Any) -> bool:
    """Whether `ops.dot_product_attention` runs a kernel that does not hold all scores."""
    if keras.backend.backend() == "torch":
        return True
    if keras.backend.backend() != "jax":
        return False  # TensorFlow spells it out as einsum, softmax, einsum
    import jax

    half = keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16")
    return half and jax.default_backend() != "cpu"


def _in_blocks(query: Any, key: Any, value: Any) -> Any:
    """[B, T, N, D] from queries [B, T, N, D] and keys and values [B, S, N, D]."""
    batch, tokens, heads, width = ops.shape(query)
    query = ops.transpose(query * width**-0.5, (0, 2, 1, 3))
    key = ops.transpose(key, (0, 2, 3, 1))
    value = ops.transpose(value, (0, 2, 1, 3))

    scores = heads * ops.shape(key)[3] * (batch if isinstance(batch, int) else 1)
    most = _larger(1, MAX_SCORES // scores)  # rows of a block
    if isinstance(tokens, int) and isinstance(most, int) and tokens <= most:
        return ops.transpose(_block(query, key, value), (0, 2, 1, 3))
    count = -(-tokens // most)
    rows = -(-tokens // count)
    query = ops.pad(query, ((0, 0), (0, 0), (0, count * rows - tokens), (0, 0)))
    query = ops.transpose(ops.reshape(query, (-1, heads, count, rows, width)), (2, 0, 1, 3, 4))
    block = keras.remat(_block)
    out = ops.map(lambda q: block(q, key, value), query)
    out = ops.reshape(ops.transpose(out, (1, 0, 3, 2, 4)), (-1, count * rows, heads, width))
    return out[:, :tokens]


def _block(query: Any, key: Any, value: Any) -> Any:
    """One block: [B, N, R, D] x [B, N, D, S] x [B, N, S, D] to [B, N, R, D]."""
    scores = ops.matmul(query, key)
    precise = keras.backend.result_type(scores.dtype, "float32")  # as everybody's softmax
    return ops.matmul(ops.cast(ops.softmax(ops.cast(scores, precise)), value.dtype), value)


def _larger(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(b, int) else ops.maximum(a, b)


@register
class Attention(Block):
    """Multi-head attention of tokens [B, T, C] to themselves, or to a context [B, S, D].

    Args:
        heads: how many.
        width: of a head.
        qkv_bias: whether the projections to query, key and value have a bias.
        upcast: see `attention`.
    """

    def __init__(
        self, heads: int, width: int, qkv_bias: bool = False, upcast: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.heads = heads
        self.width = width
        self.qkv_bias = qkv_bias
        self.upcast = upcast
        inner, dtype = heads * width, self.dtype_policy
        self.to_q, self.to_k, self.to_v = (
            layers.Dense(inner, use_bias=qkv_bias, dtype=dtype, name=f"to_{x}") for x in "qkv"
        )

    def build(self, x_shape: Any, context_shape: Any = None) -> None:
        source = x_shape if context_shape is None else context_shape
        self.to_q.build(x_shape)
        self.to_k.build(source)
        self.to_v.build(source)
        self.to_out = layers.Dense(x_shape[-1], dtype=self.dtype_policy, name="to_out_0")
        self.to_out.build((*x_shape[:-1], self.heads * self.width))

    def call(self, x: Any, context: Any = None) -> Any:
        source = x if context is None else context
        query, key, value = self.to_q(x), self.to_k(source), self.to_v(source)
        return self.to_out(attention(query, key, value, self.heads, self.upcast))

    def probabilities(self, x: Any, context: Any = None) -> Any:
        """What each token looks at, [B, heads, T, S]: for figures, so all at once."""
        source = x if context is None else context
        query, key = (
            ops.reshape(y, (-1, ops.shape(y)[1], self.heads, self.width))
            for y in (self.to_q(x), self.to_k(source))
        )
        scores = ops.einsum("bthd,bshd->bhts", query, key) * self.width**-0.5
        return ops.softmax(scores)

    def compute_output_shape(self, x_shape: Any, context_shape: Any = None) -> Any:
        return x_shape


@register
class SelfAttentionBlock(Attention):
    """Self-attention over the pixels of [B, H, W, C], with a residual (Ho et al. 2020).

        y = (x + to_out(attention(group_norm(x)))) / output_scale

    Args:
        heads, width: of a head; heads · width need not be C.
        groups: of the norm; None for no norm.
        epsilon: of the norm.
        output_scale: what the sum is divided by.
    """

    def __init__(
        self,
        heads: int,
        width: int,
        groups: int | None,
        epsilon: float,
        output_scale: float = 1.0,
        *,
        qkv_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(heads, width, qkv_bias, **kwargs)
        self.groups = groups
        self.epsilon = epsilon
        self.output_scale = output_scale
        self.group_norm = (
            None
            if groups is None
            else GroupNorm(groups, epsilon, dtype=self.dtype_policy, name="group_norm")
        )

    def build(self, x_shape: Any) -> None:  # type: ignore[override]
        if self.group_norm is not None:
            self.group_norm.build(x_shape)
        super().build((x_shape[0], None, x_shape[-1]))

    def call(self, x: Any) -> Any:  # type: ignore[override]
        h = x if self.group_norm is None else self.group_norm(x)
        y = x + like_image(super().call(tokens(h)), x)
        return y if self.output_scale == 1 else y / self.output_scale

    def compute_output_shape(self, x_shape: Any) -> Any:  # type: ignore[override]
        return x_shape


@register
class TransformerBlock(Block):
    """Self-attention, attention to the context, GEGLU (Shazeer 2020); each with norm and residual.

    Args:
        heads, width: of a head; C = heads · width.
        upcast: see `attention`.
    """

    def __init__(self, heads: int, width: int, upcast: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = heads
        self.width = width
        self.upcast = upcast
        dtype, channels = self.dtype_policy, heads * width
        self.norm1, self.norm2, self.norm3 = (
            layers.LayerNormalization(axis=-1, epsilon=1e-5, dtype=dtype, name=f"norm{i}")
            for i in (1, 2, 3)
        )
        self.attn1, self.attn2 = (
            Attention(heads, width, upcast=upcast, dtype=dtype, name=f"attn{i}") for i in (1, 2)
        )
        self.ff_in = layers.Dense(8 * channels, dtype=dtype, name="ff_net_0_proj")
        self.ff_out = layers.Dense(channels, dtype=dtype, name="ff_net_2")

    def build(self, x_shape: Any, context_shape: Any) -> None:
        for norm in (self.norm1, self.norm2, self.norm3):
            norm.build(x_shape)
        self.attn1.build(x_shape)
        self.attn2.build(x_shape, context_shape)
        self.ff_in.build(x_shape)
        self.ff_out.build((*x_shape[:-1], 4 * x_shape[-1]))

    def call(self, x: Any, context: Any) -> Any:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        hidden, gate = ops.split(self.ff_in(self.norm3(x)), 2, axis=-1)
        return x + self.ff_out(hidden * gelu(gate))

    def compute_output_shape(self, x_shape: Any, context_shape: Any) -> Any:
        return x_shape


@register
class SpatialTransformer(Block):
    """Transformer blocks over the pixels of [B, H, W, C], given a context [B, S, D].

    Norm and projection before, projection and residual after (2112.10752, appendix E.2.1). The
    projections are dense layers over the channels, whether a file has them as 1x1 convolutions
    (SD 1) or as linear layers (SD 2): the same numbers.

    Args:
        heads, width: of a head.
        depth: transformer blocks.
        groups: of the norm, whose epsilon is 1e-6 in all published networks.
        upcast: see `attention`.
    """

    def __init__(
        self,
        heads: int,
        width: int,
        depth: int,
        groups: int,
        upcast: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.heads = heads
        self.width = width
        self.depth = depth
        self.groups = groups
        self.upcast = upcast
        dtype = self.dtype_policy
        self.norm = GroupNorm(groups, 1e-6, dtype=dtype, name="norm")
        self.proj_in = layers.Dense(heads * width, dtype=dtype, name="proj_in")
        self.blocks = [
            TransformerBlock(heads, width, upcast, dtype=dtype, name=f"transformer_blocks_{i}")
            for i in range(depth)
        ]

    def build(self, x_shape: Any, context_shape: Any) -> None:
        inner = (x_shape[0], None, self.heads * self.width)
        self.norm.build(x_shape)
        self.proj_in.build((x_shape[0], None, x_shape[-1]))
        for block in self.blocks:
            block.build(inner, context_shape)
        self.proj_out = layers.Dense(x_shape[-1], dtype=self.dtype_policy, name="proj_out")
        self.proj_out.build(inner)

    def call(self, x: Any, context: Any) -> Any:
        h = self.proj_in(tokens(self.norm(x)))
        for block in self.blocks:
            h = block(h, context)
        return x + like_image(self.proj_out(h), x)

    def compute_output_shape(self, x_shape: Any, context_shape: Any) -> Any:
        return x_shape


def tokens(image: Any) -> Any:
    """[B, H, W, C] as tokens [B, H · W, C]."""
    _, height, width, channels = ops.shape(image)
    return ops.reshape(image, (-1, height * width, channels))


def like_image(x: Any, image: Any) -> Any:
    """Tokens [B, H · W, C] as the image [B, H, W, C] that they came from."""
    _, height, width, channels = ops.shape(image)
    return ops.reshape(x, (-1, height, width, channels))
