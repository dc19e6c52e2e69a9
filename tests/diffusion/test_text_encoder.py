"""CLIP's text encoder and tokenizer."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from keras_unet.diffusion import Tokenizer, build_text_encoder
from keras_unet.diffusion.text import BOS, EOS, words
from keras_unet.errors import ConfigError, DataError

SMALL = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "layers": 2,
    "heads": 2,
    "max_length": 10,
    "bos_token": 18,
    "eos_token": 19,
    "pad_token": 19,
}
IDS = np.array([[18, 3, 5, 19, 19, 19], [18, 4, 4, 7, 2, 19]])


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("projection", [None, 3])
def test_outputs(activation, projection):
    text = build_text_encoder(20, **SMALL, activation=activation, projection_dim=projection)
    out = text({"input_ids": IDS})
    assert {key: tuple(value.shape) for key, value in out.items()} == {
        "last_hidden_state": (2, 6, 8),
        "penultimate": (2, 6, 8),
        "pooled": (2, projection or 8),
    }
    for key, value in text(IDS).items():  # without the name
        np.testing.assert_array_equal(value, out[key])


def test_a_token_sees_those_before_it_only():
    text = build_text_encoder(20, **SMALL)
    changed = IDS.copy()
    changed[:, 3] = 6
    one, other = (np.asarray(text(ids)["last_hidden_state"]) for ids in (IDS, changed))
    np.testing.assert_allclose(one[:, :3], other[:, :3], atol=1e-6)
    assert np.abs(one[:, 3:] - other[:, 3:]).max() > 1e-3


@pytest.mark.parametrize(("eos", "places"), [(19, (3, 5)), (2, (3, 5)), (7, (0, 3))])
def test_pooled_is_the_first_end_token(eos, places):
    """2 in old files means the highest number; without an end token it is the first place."""
    text = build_text_encoder(20, **{**SMALL, "eos_token": eos})
    out = text(IDS)
    expected = np.asarray(out["last_hidden_state"])[[0, 1], places]
    np.testing.assert_array_equal(out["pooled"], expected)


def test_saved_and_loaded(tmp_path):
    text = build_text_encoder(20, **SMALL, dtype="mixed_bfloat16")
    text.save(tmp_path / "text.keras")
    again = keras.models.load_model(tmp_path / "text.keras")
    assert again.options == text.options
    np.testing.assert_array_equal(again(IDS)["pooled"], text(IDS)["pooled"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "8 cannot be shared among 3 heads"),
        ({"activation": "relu"}, 'must be "quick_gelu" or "gelu"'),
        ({"layers": 0}, "layers must be an integer >= 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build_text_encoder(20, **{**SMALL, **options})


def test_too_long():
    with pytest.raises(Exception, match="11 tokens; this text encoder takes at most 10"):
        build_text_encoder(20, **SMALL)(np.zeros((1, 11), int))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A photo of a CELL, 1234!!", "a photo of a cell , 1 2 3 4 !!"),
        ("it's the cells' edge; don't", "it 's the cells ' edge ; don 't"),
        ("  two\tcells\n in　rows ", "two cells in rows"),
        ("cafe\u0301 – 5µm²", "café – 5 µm ²"),
        ("日本cell🙂x_y", "日本cell 🙂 x _ y"),
        ("ΟΔΟΣ", "οδοσ"),
        ("we'll'S", "we 'll 's"),
        ("", ""),
    ],
)
def test_words(text, expected):
    assert words(text) == expected.split()


def vocabulary():
    """Bytes, bytes at the end of a word, what the merges make, special tokens."""
    from keras_unet.diffusion.text import _LETTERS

    merges = [("c", "e"), ("l", "l"), ("ce", "ll"), ("l", "l</w>"), ("ce", "ll</w>"), ("a", "a")]
    signs = [*_LETTERS, *(f"{s}</w>" for s in _LETTERS), *("".join(m) for m in merges)]
    return {sign: i for i, sign in enumerate([*signs, BOS, EOS])}, merges


@pytest.fixture
def tokenizer():
    return Tokenizer(*vocabulary(), length=8)


def symbols(tokenizer, text):
    names = {number: symbol for symbol, number in tokenizer.vocabulary.items()}
    return [names[number] for number in tokenizer.tokens(text)]


def test_pairs_are_joined_in_the_order_of_the_merges(tokenizer):
    assert symbols(tokenizer, "cell cells") == ["cell</w>", "cell", "s</w>"]
    assert symbols(tokenizer, "aaab aaa") == ["aa", "a", "b</w>", "aa", "a</w>"]
    assert symbols(tokenizer, "é") == ["Ã", "©</w>"]
    assert symbols(tokenizer, f"cell{EOS}x") == ["cell</w>", EOS, "x</w>"]


def test_rows(tokenizer):
    first, last = tokenizer.vocabulary[BOS], tokenizer.vocabulary[EOS]
    cell = tokenizer.vocabulary["cell</w>"]
    rows = tokenizer(["cell", "cell " * 20])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows[0], [first, cell, *[last] * 6])
    np.testing.assert_array_equal(rows[1], [first, *[cell] * 6, last])
    np.testing.assert_array_equal(tokenizer("cell"), rows[:1])


def test_written_and_read(tmp_path, tokenizer):
    vocab, merges = vocabulary()
    padded = Tokenizer(vocab, merges, 8, pad="!")  # Stable Diffusion 2
    padded.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.special == padded.special and again.length == 8
    np.testing.assert_array_equal(again("two cells!"), padded("two cells!"))


def test_special_tokens_of_old_folders(tmp_path, tokenizer):
    """tokenizer_config.json says one thing, special_tokens_map.json another: the latter counts."""
    tokenizer.save(tmp_path)
    special = {"pad_token": "!", "eos_token": {"content": EOS, "lstrip": False}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    assert Tokenizer.load(tmp_path)("")[0, 2:].tolist() == [tokenizer.vocabulary["!"]] * 6


def test_bad_folders(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"has no tokenizer: expected vocab.json and merges.txt"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "merges.txt").write_text("a b c\n")
    with pytest.raises(DataError, match="a merge must be two symbols, got 'a b c'"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(DataError, match=r"vocab.json is no JSON file"):
        Tokenizer.load(tmp_path)
