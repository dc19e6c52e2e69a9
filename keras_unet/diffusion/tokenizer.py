"""CLIP's byte-pair tokenizer (Sennrich et al. 2016; Radford et al. 2021): texts to token numbers.

It reads the files of a `tokenizer/` folder: `vocab.json` and `merges.txt`, or `tokenizer.json`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet import disk
from keras_unet.errors import DataError

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
