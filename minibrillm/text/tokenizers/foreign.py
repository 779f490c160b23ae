"""Tokenizers whose ids were given out elsewhere: they are read from files, not trained here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from minibrillm.checks import UserError
from minibrillm.text.tokenizers.base import json_field
from minibrillm.text.tokenizers.bpe import BYTE_OF_SYMBOL, BPETokenizer, symbol_bytes
from minibrillm.text.tokenizers.characters import UNKNOWN_LABEL, CharacterTokenizer
from minibrillm.text.tokenizers.code_points import REPLACEMENT, code_points, label, text_of

_UNKNOWN_NAMES = (UNKNOWN_LABEL, "[UNK]")


class VocabularyTokenizer(CharacterTokenizer):
    """One node a character, with ids in any order, as a vocabulary file from elsewhere gives them.

    A token of any other length is special: no text is read as it and it decodes to U+FFFD (�),
    but ``<unk>`` (or ``[UNK]``) stands for every character that has no node.

    Parameters
    ----------
    tokens : sequence of str
        Node k's token; all distinct.
    """

    kind = "vocabulary"

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = list(tokens)
        if len(set(self._tokens)) != len(self._tokens):
            raise UserError("two nodes have the same token; expected distinct tokens")
        nodes = np.array([k for k, t in enumerate(self._tokens) if len(t) == 1], np.int64)
        if nodes.size == 0:
            raise UserError("the vocabulary has no token of one character; expected at least one")
        points = code_points("".join(self._tokens[k] for k in nodes))
        order = np.argsort(points)
        self.alphabet = text_of(points[order])
        self._alphabet_points, self._alphabet_nodes = points[order], nodes[order]
        self._node_points = np.full(len(self._tokens), ord(REPLACEMENT), np.uint32)
        self._node_points[nodes] = points
        self._unknown = next((k for k, t in enumerate(tokens) if t in _UNKNOWN_NAMES), None)

    @property
    def unknown_id(self) -> int | None:
        return self._unknown

    @property
    def vocabulary(self) -> list[str]:
        """The tokens."""
        return list(self._tokens)

    def encode(self, text: str) -> np.ndarray:
        """Node ids of a text, (n_characters,) int64; an unknown character is ``<unk>``.

        Raises
        ------
        UserError
            A character has no node, and the vocabulary no ``<unk>``.
        """
        points = code_points(text)
        place = np.searchsorted(self._alphabet_points, points)
        place = np.minimum(place, len(self._alphabet_points) - 1)  # see CharacterTokenizer
        known = self._alphabet_points[place] == points
        if self._unknown is None:
            _refuse_unknown(text_of(np.unique(points[~known])))
        return np.where(known, self._alphabet_nodes[place], self._unknown or 0).astype(np.int64)

    def token(self, node: int) -> str:
        """Label of one node for plots."""
        return label(self._tokens[self._checked_id(node)])

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "vocabulary", "tokens": [str, …]}``."""
        return {"kind": self.kind, "tokens": list(self._tokens)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VocabularyTokenizer:
        """Rebuild from `to_json`."""
        tokens = json_field(data, "tokens", list)
        if not all(isinstance(token, str) for token in tokens):
            raise UserError("bad tokenizer: 'tokens' must be a list of strings")
        try:
            return cls(tokens)
        except UserError as error:
            raise UserError(f"bad tokenizer: {error}") from None


class HuggingFaceTokenizer(BPETokenizer):
    """Byte-level BPE from a ``tokenizer.json`` of the `tokenizers` library, with the file's ids.

    Unlike our own it may change the text (normalisation, a space put in front), lack some bytes,
    and have special tokens, which no text is read as and which decode to U+FFFD (�).

    Parameters
    ----------
    text : str
        Content of the file. Its settings for truncation and padding are ignored.
    """

    kind = "huggingface"

    def __init__(self, text: str) -> None:
        try:
            engine = tokenizers.Tokenizer.from_str(text)
            data = json.loads(text)
        except Exception as error:  # the library raises plain Exceptions
            raise UserError(f"no tokenizer of the tokenizers library ({error})") from None
        if not _is_byte_level_bpe(data):
            raise UserError("the tokenizer is not byte-level BPE, the only kind that is read")
        engine.no_truncation()
        engine.no_padding()
        engine.encode_special_tokens = True  # "[PAD]" in a text is five characters
        node_of = engine.get_vocab()
        if sorted(node_of.values()) != list(range(len(node_of))):
            raise UserError(f"the tokenizer's {len(node_of)} ids are not 0 to {len(node_of) - 1}")
        unknown = data["model"].get("unk_token")
        added = {t.content: t.special for t in engine.get_added_tokens_decoder().values()}
        if unknown in node_of:
            added[unknown] = True
        self._engine = engine
        self._symbols = sorted(node_of, key=node_of.__getitem__)
        self._special = {node_of[symbol] for symbol, special in added.items() if special}
        self._unknown = node_of.get(unknown)
        self._node_bytes = [
            (REPLACEMENT if added[s] else s).encode() if s in added else symbol_bytes(s)
            for s in self._symbols
        ]
        self._known_bytes = {byte for s, byte in BYTE_OF_SYMBOL.items() if s in node_of}

    @property
    def unknown_id(self) -> int | None:
        return self._unknown

    def encode(self, text: str) -> np.ndarray:
        """Node ids of a text, (n_tokens,) int64; every unknown byte is one ``[UNK]``.

        Raises
        ------
        UserError
            A byte has no node, and the tokenizer no token for unknown ones.
        """
        if self._unknown is None:  # the library would leave such bytes out without a word
            _refuse_unknown(self.unknown(text))
        return super().encode(text)

    def token(self, node: int) -> str:
        r"""Label of one node for plots; bytes that are no whole character are written ``\xe5``."""
        node = self._checked_id(node)
        return self._symbols[node] if node in self._special else super().token(node)

    def unknown(self, text: str) -> list[str]:
        """Distinct characters of the normalised text with a byte that no node can represent."""
        code_points(text)
        normalizer = self._engine.normalizer
        read = set(text if normalizer is None else normalizer.normalize_str(text))
        return sorted(c for c in read if not self._known_bytes >= set(c.encode("utf-8")))

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "huggingface", "tokenizer": str}``, the string being a ``tokenizer.json``."""
        return {"kind": self.kind, "tokenizer": self.library_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> HuggingFaceTokenizer:
        """Rebuild from `to_json`."""
        try:
            return cls(json_field(data, "tokenizer", str))
        except UserError as error:
            raise UserError(f"bad tokenizer: {error}") from None


def _is_byte_level_bpe(data: dict[str, Any]) -> bool:
    """Whether the symbols of a ``tokenizer.json`` are nothing but bytes of the text."""
    model, splitter = data["model"], data.get("pre_tokenizer") or {}
    splitters = [splitter, *splitter.get("pretokenizers", [])]
    marks = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    byte_level = any(part.get("type") == "ByteLevel" for part in splitters)
    return model.get("type") == "BPE" and byte_level and not marks


def _refuse_unknown(characters: Sequence[str]) -> None:
    if characters:
        shown = " ".join(repr(c) for c in characters[:8]) + (" …" if len(characters) > 8 else "")
        raise UserError(
            f"the vocabulary has neither a node for {shown} nor one for unknown characters; "
            "leave them out of the text"
        )
