"""Byte-level byte-pair encoding: frequent byte pairs are merged, any text in any language fits."""

from __future__ import annotations

import codecs
import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers

from minibrillm.checks import UserError
from minibrillm.text.tokenizers.base import Tokenizer, check_n_nodes, json_field
from minibrillm.text.tokenizers.code_points import code_points, label

_DEFAULT_NODES = 512
_N_BYTES = 256
_LONGEST_WORD = 1000  # bytes; of a word, learning takes the square of its length


def _byte_symbols() -> list[str]:
    """The printable character that byte-level BPE writes for each of the 256 bytes.

    Printable Latin-1 characters stand for themselves; the other bytes take the characters from
    U+0100 on (so a space is Ġ). This is GPT-2's table, which the `tokenizers` library uses.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(_N_BYTES)]


BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}


def symbol_bytes(symbol: str) -> bytes:
    """Bytes of a symbol in GPT-2's byte alphabet; a symbol written otherwise is a `UserError`."""
    if not BYTE_OF_SYMBOL.keys() >= set(symbol):
        raise UserError(f"{reprlib.repr(symbol)} is not written in the byte alphabet")
    return bytes(BYTE_OF_SYMBOL[c] for c in symbol)


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding: 256 byte nodes and one node for every learned merge.

    There are no special tokens and no normalisation, so ``decode(encode(text)) == text`` for every
    valid Unicode text, ``"<|endoftext|>"`` included.

    Parameters
    ----------
    symbols : sequence of str
        Node k's bytes, written in GPT-2's byte alphabet; all 256 single bytes must be there.
    merges : sequence of (str, str)
        Pairs of symbols to join, the first learned first.
    """

    kind = "bpe"

    def __init__(self, symbols: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        node_of = {symbol: node for node, symbol in enumerate(symbols)}
        if len(node_of) != len(symbols):
            raise UserError("two nodes have the same symbol; expected distinct symbols")
        if not BYTE_OF_SYMBOL.keys() <= node_of.keys():
            raise UserError("a byte has no node; expected the symbols of all 256 bytes")
        if "" in node_of:
            raise UserError("a node has an empty symbol; expected symbols in the byte alphabet")
        self._node_bytes = [symbol_bytes(symbol) for symbol in symbols]
        for left, right in merges:
            if not {left, right, left + right} <= node_of.keys():
                raise UserError(
                    f"the merge of {reprlib.repr(left)} and {reprlib.repr(right)} "
                    "names a symbol that has no node"
                )
        self._symbols = list(symbols)
        self._merges = [(left, right) for left, right in merges]
        self._engine = _byte_level(tokenizers.models.BPE(vocab=node_of, merges=self._merges))

    @classmethod
    def train(cls, text: str, n_nodes: int = _DEFAULT_NODES) -> BPETokenizer:
        """Learn the merges of a text; the same text gives the same tokenizer every time.

        A "word" (what stands between blanks and punctuation) of more than 1,000 bytes, such as
        DNA, is learned from in parts, so that time grows with the length of the text.

        Parameters
        ----------
        text : str
            Training text.
        n_nodes : int
            Number of nodes wanted, at least 256; there are fewer if no pair occurs twice any more.

        Raises
        ------
        UserError
            If the text is empty or `n_nodes` is below 256.
        """
        check_n_nodes(n_nodes, _N_BYTES, "one node for every byte")
        if code_points(text).size == 0:
            raise UserError("the training text is empty; expected at least one character")
        # The trainer reserves memory for every node it is told of: no more than could be learned.
        most = _N_BYTES + len(text.encode("utf-8"))
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=min(int(n_nodes), most),
            min_frequency=2,  # a merge seen once would only memorise its place
            initial_alphabet=sorted(BYTE_OF_SYMBOL),
            special_tokens=[],
            show_progress=False,
        )
        engine = _byte_level(tokenizers.models.BPE())
        engine.pre_tokenizer = _in_parts(engine.pre_tokenizer)  # to learn from, not to encode
        engine.train_from_iterator([text], trainer=trainer)
        model = json.loads(engine.to_str())["model"]
        symbols = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(symbols, [(left, right) for left, right in model["merges"]])

    @property
    def n_nodes(self) -> int:
        """Number of nodes: 256 bytes and the merges."""
        return len(self._symbols)

    @property
    def vocabulary(self) -> list[str]:
        """The nodes' bytes, written in GPT-2's byte alphabet (a space is Ġ)."""
        return list(self._symbols)

    def library_json(self) -> str:
        """The same tokenizer as a ``tokenizer.json`` of the `tokenizers` library."""
        return str(self._engine.to_str())

    def encode(self, text: str) -> np.ndarray:
        """Node ids of a text, (n_tokens,) int64."""
        code_points(text)
        encoding = self._engine.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of node ids, (n_tokens,); bytes that are no valid UTF-8 become U+FFFD (�)."""
        joined = b"".join(self._node_bytes[node] for node in self._checked_ids(ids))
        return joined.decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield text as soon as its last byte has come; never an empty string."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for node in ids:
            piece = decoder.decode(self._node_bytes[self._checked_id(node)])
            if piece:
                yield piece
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def token(self, node: int) -> str:
        r"""Label of one node for plots; bytes that are no whole character are written ``\xe5``."""
        content = self._node_bytes[self._checked_id(node)]
        return label(content.decode("utf-8", errors="backslashreplace"))

    def unknown(self, text: str) -> list[str]:
        """Always empty: every character is a sequence of bytes, and every byte has a node."""
        code_points(text)
        return []

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "bpe", "symbols": [str, …], "merges": [[left, right], …]}``."""
        merges = [[left, right] for left, right in self._merges]
        return {"kind": self.kind, "symbols": list(self._symbols), "merges": merges}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BPETokenizer:
        """Rebuild from `to_json`."""
        symbols = json_field(data, "symbols", list)
        merges = json_field(data, "merges", list)
        if not all(isinstance(symbol, str) for symbol in symbols):
            raise UserError("bad tokenizer: 'symbols' must be a list of strings")
        if not all(_is_pair_of_strings(merge) for merge in merges):
            raise UserError("bad tokenizer: 'merges' must be a list of pairs of strings")
        try:
            return cls(symbols, [(left, right) for left, right in merges])
        except UserError as error:
            raise UserError(f"bad tokenizer: {error}") from None


def _byte_level(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    """The library's tokenizer around a model: words split as in GPT-2, bytes as symbols."""
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return engine


def _in_parts(splitter: tokenizers.pre_tokenizers.PreTokenizer) -> Any:
    """A splitter that cuts very long words of another."""
    part = tokenizers.Regex(f".{{1,{_LONGEST_WORD}}}")
    cut = tokenizers.pre_tokenizers.Split(part, behavior="isolated")
    return tokenizers.pre_tokenizers.Sequence([splitter, cut])


def _is_pair_of_strings(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(part, str) for part in value)
    )
