"""Text ↔ node ids: a token *is* a node, so the vocabulary is the list of the graph's nodes.

`CharacterTokenizer` gives every character a node (the natural choice for Chinese and for small
graphs); `BPETokenizer` merges frequent byte pairs, so that any text in any language fits.
`VocabularyTokenizer` and `HuggingFaceTokenizer` are their likes with ids that were given out
elsewhere: they are read from files, not trained here.
"""

from __future__ import annotations

import codecs
import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers

from minibrillm.checks import UserError

UNKNOWN_ID = 0
UNKNOWN_LABEL = "<unk>"
DEFAULT_BPE_NODES = 512

_UNKNOWN_NAMES = (UNKNOWN_LABEL, "[UNK]")
_N_BYTES = 256
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_VISIBLE = {" ": "␣", "\n": "⏎"}


def _code_points(text: str) -> np.ndarray:
    """Code point of every character, (n_characters,) uint32; refuses lone surrogates."""
    if not isinstance(text, str):
        raise UserError(f"text is a {type(text).__name__}; expected a string (str)")
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        raise UserError(
            f"text is not valid Unicode: character {error.start} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}; read the file with the encoding it was written in"
        ) from None


def _characters(code_points: np.ndarray) -> str:
    return code_points.astype("<u4").tobytes().decode("utf-32-le")


def _label(text: str) -> str:
    """Text in which every character leaves a mark on paper."""
    return "".join(
        _VISIBLE.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode("ascii"))
        for c in text
    )


def _check_n_nodes(n_nodes: int, low: int, why: str) -> None:
    if isinstance(n_nodes, bool) or not isinstance(n_nodes, int | np.integer) or n_nodes < low:
        raise UserError(f"n_nodes is {n_nodes!r}; expected an integer of at least {low} ({why})")


class Tokenizer(ABC):
    """What every tokenizer can do; make one with `train_tokenizer` or `load_tokenizer`."""

    kind: str

    @property
    def unknown_id(self) -> int | None:
        """The node of characters that no other node represents; None where there is none."""
        return None

    @property
    @abstractmethod
    def n_nodes(self) -> int:
        """Number of nodes V; ids run from 0 to V − 1."""

    @property
    @abstractmethod
    def vocabulary(self) -> list[str]:
        """Distinct names of the nodes, node 0 first, as a vocabulary file lists them."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Node ids of a text.

        Parameters
        ----------
        text : str
            Any valid Unicode text, the empty one included.

        Returns
        -------
        ndarray of int64, shape (n_tokens,)

        Raises
        ------
        UserError
            If the text is no string or holds a lone surrogate.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of a sequence of node ids; what cannot be written becomes U+FFFD (�).

        Parameters
        ----------
        ids : sequence of int or ndarray, shape (n_tokens,)

        Raises
        ------
        UserError
            If `ids` is not one-dimensional, not of integers, or names a node that is not there.
        """

    @abstractmethod
    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield text as the ids arrive, never a piece of a character.

        The pieces, joined, are exactly ``decode(list(ids))``.

        Parameters
        ----------
        ids : iterable of int
            May be a generator that is still running.
        """

    @abstractmethod
    def token(self, node: int) -> str:
        r"""Label of one node for plots: a space is ␣, a newline ⏎, a stray byte ``\xe5``."""

    @abstractmethod
    def unknown(self, text: str) -> list[str]:
        """Distinct characters that no node can represent, in code-point order."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything needed to rebuild the tokenizer with `tokenizer_from_json`, as plain JSON."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Rebuild from `to_json`; `tokenizer_from_json` chooses the class by itself.

        Raises
        ------
        UserError
            If a key is missing or a value is not what `to_json` writes.
        """

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to a JSON file, which `load_tokenizer` reads."""
        text = json.dumps(self.to_json(), ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_nodes={self.n_nodes})"

    def _checked_ids(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids)
        if array.ndim == 1 and array.size == 0:
            return array.astype(np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise UserError(
                f"ids has shape {array.shape} and dtype {array.dtype}; "
                "expected a one-dimensional sequence of integers"
            )
        outside = array[(array < 0) | (array >= self.n_nodes)]
        if outside.size:
            raise UserError(
                f"there is no node {int(outside[0])}; this tokenizer has the nodes 0 to "
                f"{self.n_nodes - 1} (was the text encoded with another tokenizer?)"
            )
        return array.astype(np.int64)

    def _checked_id(self, node: int) -> int:
        return int(self._checked_ids([node])[0])


class CharacterTokenizer(Tokenizer):
    """One node a character; node 0 stands for every character that is not in the alphabet.

    Parameters
    ----------
    alphabet : str
        Distinct characters in code-point order; character k is node k + 1.
    """

    kind = "characters"

    def __init__(self, alphabet: str) -> None:
        code_points = _code_points(alphabet)
        if code_points.size == 0:
            raise UserError("the alphabet is empty; expected at least one character")
        if np.any(code_points[1:] <= code_points[:-1]):
            raise UserError("the alphabet must hold distinct characters in code-point order")
        self.alphabet = alphabet
        self._alphabet_points = code_points
        self._node_points = np.concatenate(([ord(_REPLACEMENT)], code_points))

    @classmethod
    def train(cls, text: str, n_nodes: int | None = None) -> CharacterTokenizer:
        """Collect the alphabet of a text.

        Parameters
        ----------
        text : str
            Training text.
        n_nodes : int, optional
            Keep the n_nodes − 1 most frequent characters (equal counts: the lower code point), or
            all of them if there are fewer. Without it every character gets a node.

        Raises
        ------
        UserError
            If the text is empty or `n_nodes` is below 2.
        """
        points, counts = np.unique(_code_points(text), return_counts=True)
        if points.size == 0:
            raise UserError("the training text is empty; expected at least one character")
        if n_nodes is not None:
            _check_n_nodes(n_nodes, 2, f"{UNKNOWN_LABEL} and one character")
            # A stable sort of points that are already in order settles ties by code point.
            most_frequent = np.argsort(-counts, kind="stable")[: n_nodes - 1]
            points = np.sort(points[most_frequent])
        return cls(_characters(points))

    @property
    def unknown_id(self) -> int | None:
        return UNKNOWN_ID

    @property
    def n_nodes(self) -> int:
        """Number of nodes: the characters of the alphabet and ``<unk>``."""
        return len(self._node_points)

    @property
    def vocabulary(self) -> list[str]:
        """``<unk>`` and the characters of the alphabet."""
        return [UNKNOWN_LABEL, *self.alphabet]

    def encode(self, text: str) -> np.ndarray:
        """Node ids of a text, (n_characters,) int64; a character outside the alphabet is node 0."""
        points = _code_points(text)
        place = np.searchsorted(self._alphabet_points, points)
        # A code point beyond the last one gets a place after the end: look at the last instead.
        place = np.minimum(place, len(self._alphabet_points) - 1)
        known = self._alphabet_points[place] == points
        return np.where(known, place + 1, UNKNOWN_ID).astype(np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of node ids, (n_tokens,); node 0 becomes U+FFFD (�)."""
        return _characters(self._node_points[self._checked_ids(ids)])

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield one character for every id."""
        for node in ids:
            yield self.decode([node])

    def token(self, node: int) -> str:
        """Label of one node for plots."""
        node = self._checked_id(node)
        return UNKNOWN_LABEL if node == UNKNOWN_ID else _label(self.alphabet[node - 1])

    def unknown(self, text: str) -> list[str]:
        """Distinct characters outside the alphabet, in code-point order."""
        return list(_characters(np.setdiff1d(_code_points(text), self._alphabet_points)))

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "characters", "alphabet": str}``."""
        return {"kind": self.kind, "alphabet": self.alphabet}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CharacterTokenizer:
        """Rebuild from `to_json`."""
        try:
            return cls(_field(data, "alphabet", str))
        except UserError as error:
            raise UserError(f"bad tokenizer: {error}") from None


def _byte_symbols() -> list[str]:
    """The printable character that byte-level BPE writes for each of the 256 bytes.

    Printable Latin-1 characters stand for themselves; the other bytes take the characters from
    U+0100 on (so a space is Ġ). This is GPT-2's table, which the `tokenizers` library uses.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(_N_BYTES)]


_BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}


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
        if not _BYTE_OF_SYMBOL.keys() <= node_of.keys():
            raise UserError("a byte has no node; expected the symbols of all 256 bytes")
        for symbol in symbols:
            if not symbol or not _BYTE_OF_SYMBOL.keys() >= set(symbol):
                raise UserError(f"{reprlib.repr(symbol)} is not written in the byte alphabet")
        for left, right in merges:
            if not {left, right, left + right} <= node_of.keys():
                raise UserError(
                    f"the merge of {reprlib.repr(left)} and {reprlib.repr(right)} "
                    "names a symbol that has no node"
                )
        self._symbols = list(symbols)
        self._merges = [(left, right) for left, right in merges]
        self._node_bytes = [bytes(_BYTE_OF_SYMBOL[c] for c in symbol) for symbol in symbols]
        self._engine = _byte_level(tokenizers.models.BPE(vocab=node_of, merges=self._merges))

    @classmethod
    def train(cls, text: str, n_nodes: int = DEFAULT_BPE_NODES) -> BPETokenizer:
        """Learn the merges of a text; the same text gives the same tokenizer every time.

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
        _check_n_nodes(n_nodes, _N_BYTES, "one node for every byte")
        if _code_points(text).size == 0:
            raise UserError("the training text is empty; expected at least one character")
        # The trainer reserves memory for every node it is told of: no more than could be learned.
        most = _N_BYTES + len(text.encode("utf-8"))
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=min(int(n_nodes), most),
            min_frequency=2,  # a merge seen once would only memorise its place
            initial_alphabet=sorted(_BYTE_OF_SYMBOL),
            special_tokens=[],
            show_progress=False,
        )
        engine = _byte_level(tokenizers.models.BPE())
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
        _code_points(text)
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
        return _label(content.decode("utf-8", errors="backslashreplace"))

    def unknown(self, text: str) -> list[str]:
        """Always empty: every character is a sequence of bytes, and every byte has a node."""
        _code_points(text)
        return []

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "bpe", "symbols": [str, …], "merges": [[left, right], …]}``."""
        merges = [[left, right] for left, right in self._merges]
        return {"kind": self.kind, "symbols": list(self._symbols), "merges": merges}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BPETokenizer:
        """Rebuild from `to_json`."""
        symbols = _field(data, "symbols", list)
        merges = _field(data, "merges", list)
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
        points = _code_points("".join(self._tokens[k] for k in nodes))
        order = np.argsort(points)
        self.alphabet = _characters(points[order])
        self._alphabet_points, self._alphabet_nodes = points[order], nodes[order]
        self._node_points = np.full(len(self._tokens), ord(_REPLACEMENT), np.uint32)
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
        points = _code_points(text)
        place = np.searchsorted(self._alphabet_points, points)
        place = np.minimum(place, len(self._alphabet_points) - 1)  # see CharacterTokenizer
        known = self._alphabet_points[place] == points
        if self._unknown is None:
            _refuse_unknown(_characters(np.unique(points[~known])))
        return np.where(known, self._alphabet_nodes[place], self._unknown or 0).astype(np.int64)

    def token(self, node: int) -> str:
        """Label of one node for plots."""
        return _label(self._tokens[self._checked_id(node)])

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "vocabulary", "tokens": [str, …]}``."""
        return {"kind": self.kind, "tokens": list(self._tokens)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VocabularyTokenizer:
        """Rebuild from `to_json`."""
        tokens = _field(data, "tokens", list)
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
            (_REPLACEMENT if added[s] else s).encode() if s in added else _symbol_bytes(s)
            for s in self._symbols
        ]
        self._known_bytes = {byte for s, byte in _BYTE_OF_SYMBOL.items() if s in node_of}

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
        return self._symbols[node] if node in self._special else super().token(node)

    def unknown(self, text: str) -> list[str]:
        """Distinct characters of the normalised text with a byte that no node can represent."""
        _code_points(text)
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
            return cls(_field(data, "tokenizer", str))
        except UserError as error:
            raise UserError(f"bad tokenizer: {error}") from None


def _symbol_bytes(symbol: str) -> bytes:
    """Bytes of a symbol in GPT-2's byte alphabet; a symbol written otherwise is a `UserError`."""
    if not _BYTE_OF_SYMBOL.keys() >= set(symbol):
        raise UserError(f"{reprlib.repr(symbol)} is not written in the byte alphabet")
    return bytes(_BYTE_OF_SYMBOL[c] for c in symbol)


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


def _is_pair_of_strings(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(part, str) for part in value)
    )


def _field(data: dict[str, Any], key: str, kind: type[str] | type[list]) -> Any:
    """Value of a key of a tokenizer's JSON, of the type it must have."""
    if key not in data:
        raise UserError(f"bad tokenizer: the key {key!r} is missing")
    if not isinstance(data[key], kind):
        raise UserError(
            f"bad tokenizer: {key!r} is {reprlib.repr(data[key])}; "
            f"expected a {'string' if kind is str else 'list'}"
        )
    return data[key]


_TRAINED: dict[str, type[CharacterTokenizer] | type[BPETokenizer]] = {
    CharacterTokenizer.kind: CharacterTokenizer,
    BPETokenizer.kind: BPETokenizer,
}
_READ: dict[str, type[Tokenizer]] = {
    **_TRAINED,
    VocabularyTokenizer.kind: VocabularyTokenizer,
    HuggingFaceTokenizer.kind: HuggingFaceTokenizer,
}


def tokenizer_kinds() -> tuple[str, ...]:
    """Names of the kinds of tokenizer that can be trained."""
    return tuple(_TRAINED)


def _check_kind(kind: object, kinds: Iterable[str]) -> None:
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(
            f"there is no tokenizer of kind {reprlib.repr(kind)}; choose one of {', '.join(kinds)}"
        )


def train_tokenizer(text: str, kind: str, n_nodes: int | None = None) -> Tokenizer:
    """Learn a tokenizer from a text.

    Parameters
    ----------
    text : str
        Training text; a held-out text must not be part of it.
    kind : "characters" or "bpe"
    n_nodes : int, optional
        Number of nodes wanted. By default every character of the text gets one, or 512 for BPE.

    Raises
    ------
    UserError
        If the kind is unknown, the text is empty or `n_nodes` is too small.
    """
    _check_kind(kind, _TRAINED)
    chosen = _TRAINED[kind]
    return chosen.train(text) if n_nodes is None else chosen.train(text, n_nodes)


def tokenizer_from_json(data: dict[str, Any]) -> Tokenizer:
    """Rebuild a tokenizer from what its `to_json` gave.

    Raises
    ------
    UserError
        If the dictionary does not describe a tokenizer.
    """
    if not isinstance(data, dict):
        raise UserError(f"bad tokenizer: expected a dictionary, got {reprlib.repr(data)}")
    kind = _field(data, "kind", str)
    _check_kind(kind, _READ)
    return _READ[kind].from_json(data)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer from a file written by `Tokenizer.save`.

    Raises
    ------
    UserError
        If the file cannot be read or does not describe a tokenizer.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return tokenizer_from_json(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: no JSON; expected a file written by a tokenizer's save") from None
