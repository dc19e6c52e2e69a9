"""Text encoding as CLIP has it: a byte-pair tokenizer, and the transformer that encodes its tokens.

Tokenizer (Sennrich et al. 2016; Radford et al. 2021): texts to token numbers, by the files of a
`tokenizer/` folder: `vocab.json` and `merges.txt`, or `tokenizer.json`. Text encoder (Radford et
al. 2021, 2103.00020): token numbers to one vector a token, which Stable Diffusion attends to.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from keras_unet import disk
from keras_unet.diffusion.blocks import Block, float_dtype, gelu, register
from keras_unet.diffusion.presets import completed, preset_options, require_count
from keras_unet.errors import ConfigError, DataError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
_END = "</w>"  # ends the last symbol of a word
_SHORT_FORMS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# Unicode's White_Space; Python's \s has four control characters more.
_SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


class Tokenizer:
    """Texts to integers [B, length]: begin, the text's tokens, end, filling.

    A text is normalized (NFC, one space for any, lower case) and cut into words: runs of letters,
    single digits, runs of anything else, and English short forms. Each word's UTF-8 bytes are
    joined pair by pair, in the order of `merges`.

    Args:
        vocabulary: symbol -> number.
        merges: pairs of symbols, those to be joined first first.
        length: of every row; longer texts are cut.
        bos, eos, pad, unknown: special symbols. Where a text has one of them, it is taken as such.

    >>> tokenizer = Tokenizer.load("stable-diffusion/tokenizer")
    >>> tokenizer(["two cells", ""]).shape
    (2, 77)
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        length: int = 77,
        *,
        bos: str = BOS,
        eos: str = EOS,
        pad: str = EOS,
        unknown: str = EOS,
    ):
        self.vocabulary = dict(vocabulary)
        self.merges = [(a, b) for a, b in merges]
        self.length = length
        self.special = {"bos": bos, "eos": eos, "pad": pad, "unk": unknown}
        for name, symbol in self.special.items():
            if symbol not in self.vocabulary:
                raise DataError(f"the vocabulary has no {name} token {symbol!r}")
        self._rank = {pair: i for i, pair in enumerate(self.merges)}
        self._special = re.compile(
            "(" + "|".join(re.escape(s) for s in sorted({*self.special.values()})) + ")"
        )
        self._symbols = lru_cache(maxsize=10_000)(self._join)

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Token numbers, int32 [B, length]; one text is a batch of one."""
        texts = [texts] if isinstance(texts, str) else texts
        first, last, fill = (self.vocabulary[self.special[x]] for x in ("bos", "eos", "pad"))
        rows = np.full((len(texts), self.length), fill, np.int32)
        for row, text in zip(rows, texts, strict=True):
            numbers = [first, *self.tokens(text)[: self.length - 2], last]
            row[: len(numbers)] = numbers
        return rows

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's tokens, without begin, end and filling."""
        unknown = self.vocabulary[self.special["unk"]]
        numbers: list[int] = []
        for part in self._special.split(text):
            if self._special.fullmatch(part):
                numbers.append(self.vocabulary[part])
                continue
            for word in words(part):
                numbers += [self.vocabulary.get(symbol, unknown) for symbol in self._symbols(word)]
        return numbers

    def _join(self, word: str) -> tuple[str, ...]:
        symbols = [_LETTERS[byte] for byte in word.encode()]
        symbols[-1] += _END
        while len(symbols) > 1:
            pairs = set(pairwise(symbols))
            pair = min(pairs, key=lambda p: self._rank.get(p, len(self._rank)))
            if pair not in self._rank:
                break
            joined, i = [], 0
            while i < len(symbols):  # from the left: a a a becomes aa a
                size = 2 if tuple(symbols[i : i + 2]) == pair else 1
                joined.append("".join(symbols[i : i + size]))
                i += size
            symbols = joined
        return tuple(symbols)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Reads a tokenizer folder.

        Raises:
            DataError: a file is missing or is no such file; the message names it.
        """
        folder = Path(folder)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = _json(folder / "vocab.json")
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
            rows = [line.split() for line in lines if line and not line.startswith("#version")]
        elif (folder / "tokenizer.json").is_file():
            model = _json(folder / "tokenizer.json").get("model", {})
            if model.get("type") != "BPE":
                raise DataError(f"{folder / 'tokenizer.json'} is no byte-pair tokenizer")
            vocabulary = {
                **model["vocab"],
                **{
                    t["content"]: t["id"]
                    for t in _json(folder / "tokenizer.json").get("added_tokens", ())
                },
            }
            rows = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        else:
            raise DataError(
                f"{folder} has no tokenizer: expected vocab.json and merges.txt, or tokenizer.json"
            )
        bad = next((row for row in rows if len(row) != 2), None)
        if bad is not None:
            raise DataError(f"{folder}: a merge must be two symbols, got {' '.join(bad)!r}")
        config, special = _special_tokens(folder)
        # Files that set no limit hold a number like 10^30.
        length = config.get("model_max_length", 77)
        return cls(
            vocabulary,
            [(a, b) for a, b in rows],
            int(length) if length < 10**6 else 77,
            bos=special.get("bos_token", BOS),
            eos=special.get("eos_token", EOS),
            pad=special.get("pad_token", EOS),
            unknown=special.get("unk_token", EOS),
        )

    def save(self, folder: str | Path) -> None:
        """Writes `vocab.json`, `merges.txt`, `tokenizer_config.json`, `special_tokens_map.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {f"{name}_token": symbol for name, symbol in self.special.items()}
        config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.length, **special}
        merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in self.merges), ""])
        disk.write_text(folder / "merges.txt", merges)
        for name, content in (
            ("vocab.json", self.vocabulary),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", special),
        ):
            disk.write_text(folder / name, json.dumps(content, ensure_ascii=False, indent=2))


def words(text: str) -> list[str]:
    """A text's words: NFC, lower case, cut between letters, digits, other signs and spaces."""
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", text))
    text = "".join(sign.lower() for sign in text)  # sign by sign: a sigma at the end is no other
    found, start = [], 0
    while start < len(text):
        kind = _kind(text[start])
        end = start + 1
        short = next((s for s in _SHORT_FORMS if text.startswith(s, start)), None)
        if short is not None:
            end = start + len(short)
        elif kind in ("letter", "other"):
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind != "space":
            found.append(text[start:end])
        start = end
    return found


def _kind(sign: str) -> str:
    if sign == " ":
        return "space"
    return {"L": "letter", "N": "digit"}.get(unicodedata.category(sign)[0], "other")


def _letters() -> list[str]:
    """A printable letter for each byte, as GPT-2's vocabulary writes them."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in plain)
    names = {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [names.get(byte, chr(byte)) for byte in range(256)]


_LETTERS = _letters()


def _special_tokens(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """tokenizer_config.json, and the special tokens: older folders have theirs in a file apart."""
    config = _json(folder / "tokenizer_config.json", {})
    special = dict(config)
    if "added_tokens_decoder" not in config:
        special.update(_json(folder / "special_tokens_map.json", {}))
    return config, {
        key: value["content"] if isinstance(value, Mapping) else value
        for key, value in special.items()
        if key.endswith("_token") and isinstance(value, (str, Mapping))
    }


def _json(path: Path, default: Any = None) -> Any:
    if default is not None and not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no JSON file: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


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
class TokenEmbeddings(Block):
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


@register
class TextBlock(Block):
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


@register
class Pool(Block):
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


def _check(options: dict[str, Any]) -> None:
    for key in ("vocabulary_size", "hidden_size", "intermediate_size", "layers", "heads"):
        require_count(key, options[key])
    if options["hidden_size"] % options["heads"]:
        raise ConfigError(
            f"hidden_size {options['hidden_size']} cannot be shared among {options['heads']} heads"
        )
    if options["activation"] not in ("quick_gelu", "gelu"):
        raise ConfigError(
            f'activation must be "quick_gelu" or "gelu", got {options["activation"]!r}'
        )
