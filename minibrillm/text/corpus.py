"""Text to learn from: bundled, from files, made with a known entropy or downloaded; and batches."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minibrillm.checks import UserError

Array = np.ndarray

LANGUAGES = ("zh", "en")
SPLITS = ("train", "validation", "test")


# ------------------------------------------------------------------------------- files and folders


def decode_text(data: bytes, name: str = "the text") -> str:
    """Text of the bytes of a file: UTF-8 (with or without byte-order mark) or GB18030.

    GB18030 (and GBK, GB2312 within it) is taken only where the bytes are no UTF-8 and what is not
    ASCII reads as the usual characters and punctuation of Chinese, the most frequent ones among
    them: other encodings often decode as it without an error. Line ends become newlines.

    Raises
    ------
    UserError
        No bytes, or bytes that are neither.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{name} is UTF-16; convert it to UTF-8")
    if b"\0" in data:
        raise UserError(f"{name} is a binary file; expected text in UTF-8 or GB18030")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = _decode_gb18030(data)
        if found is None:
            raise UserError(
                f"{name} is neither UTF-8 text (byte {error.start} does not fit) nor GB18030; "
                "convert it to UTF-8"
            ) from None
        text = found
    if not text:
        raise UserError(f"{name} is empty; it takes some text to learn from")
    return text.replace("\r\n", "\n")


def _decode_gb18030(data: bytes) -> str | None:
    """The text, if the bytes are GB18030 beyond reasonable doubt."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return None
    foreign = "".join(c for c in text if not c.isascii())
    pairs = foreign.encode("gb2312", errors="ignore")  # GB2312 has two bytes a character
    # Rows 1-9 are signs, 16-55 the 3,755 characters of level 1, 56-87 the rarer ones.
    usual = sum(first < 0xD8 for first in pairs[::2])
    frequent = sum(c in _FREQUENT for c in foreign)
    return text if usual > 0.8 * len(foreign) and frequent > 0.05 * len(foreign) else None


# Half of a modern Chinese text, and a fifth of old poems; of Korean or Japanese read as GB18030
# next to nothing, though their encodings fill the same places.
_FREQUENT = frozenset(
    "的一是不了人在有我他这个们中来上大为说子和你地出道也时年得就那要下以生会自着去之过家学对可"
    "里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面三已老从动"
    "两长知"
)


def read_text(path: str | Path) -> str:
    """Read a text file; its encoding is found out by `decode_text`.

    Raises
    ------
    UserError
        No such file, a directory, an empty file, or one that is no text.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a text file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return decode_text(data, str(path))


@dataclass(frozen=True)
class Corpus:
    """Documents, and which split each belongs to if the corpus says so.

    A text file is one document, as it is. Where there are several, each stands between two
    newlines: its first character is foretold from the newline before, and its end is foretold too.

    Parameters
    ----------
    documents : tuple of str
    splits : tuple of str, optional
        "train", "validation" or "test" for each document.
    """

    documents: tuple[str, ...]
    splits: tuple[str, ...] | None = None


def as_document(text: str) -> str:
    """A text between two newlines."""
    return "\n" + text.strip("\n") + "\n"


def join_documents(documents: Sequence[str]) -> str:
    """One text of all documents, a newline between them."""
    return "".join(d if k == 0 else d.removeprefix("\n") for k, d in enumerate(documents))


def read_corpus(path: str | Path, field: str | None = None) -> Corpus:
    """Read a text file, the texts of a ``.jsonl`` file, or a folder of ``.txt`` files.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file holds one JSON object a line; each is a document, and if all of them
        have the field ``split`` ("train", "validation" or "test"), it is followed. Of a folder,
        every ``.txt`` file, at any depth, in the order of their names.
    field : str, optional
        Which field of the objects holds the text; needed for ``.jsonl`` files, and only there.

    Raises
    ------
    UserError
        Nothing to read, or no such field.
    """
    path = Path(path)
    if field is not None and (path.is_dir() or path.suffix != ".jsonl"):
        raise UserError(f"{path} is no .jsonl file, it has no field {field!r}; leave the field out")
    if path.is_dir():
        texts = (p for p in path.rglob("*.txt") if p.is_file())
        files = sorted(texts, key=lambda p: p.relative_to(path).as_posix())
        if not files:
            raise UserError(f"{path} holds no .txt file; name a folder with texts, or one text")
        return Corpus(tuple(as_document(read_text(file)) for file in files))
    if path.suffix == ".jsonl":
        return _read_jsonl(path, field)
    return Corpus((read_text(path),))


def _read_jsonl(path: Path, field: str | None) -> Corpus:
    documents: list[str] = []
    splits: list[Any] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no JSON ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} is no JSON object; expected {{field: text, …}}")
        if field not in record:
            what = "name the field that holds the text" if field is None else f"no field {field!r}"
            names = ", ".join(map(str, record))
            raise UserError(f"{path}, line {number}: {what}; there are {names}")
        if not isinstance(record[field], str) or not record[field].strip():
            raise UserError(f"{path}, line {number}: the field {field!r} holds no text")
        documents.append(as_document(record[field]))
        splits.append(record.get("split"))
    if not documents:
        raise UserError(f"{path} holds no text")
    follow = set(splits) <= set(SPLITS) and "train" in splits
    return Corpus(tuple(documents), tuple(splits) if follow else None)


# ------------------------------------------------------------------------------------------ splits


@dataclass(frozen=True)
class Split:
    """Documents to train on, and documents held out."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


def split_corpus(corpus: Corpus, heldout: float = 0.1) -> Split:
    """Follow the corpus' own split, or else hold out its last part.

    Of one document the last part of its text (the usual split of tiny Shakespeare: the last
    10 %), of several the last whole documents. With splits of its own, what is for validation is
    held out (or for tests, where nothing is for validation).

    Parameters
    ----------
    heldout : float
        Share of the characters held out, above 0 and below 1.
    """
    if not 0 < heldout < 1:
        raise UserError(f"the share held out is {heldout}; expected a number between 0 and 1")
    if corpus.splits is not None:
        groups = {
            name: tuple(
                d for d, s in zip(corpus.documents, corpus.splits, strict=True) if s == name
            )
            for name in SPLITS
        }
        return Split(groups["train"], groups["validation"] or groups["test"])
    if len(corpus.documents) == 1:
        text = corpus.documents[0]
        cut = int(len(text) * (1 - heldout))
        return Split((text[:cut],), (text[cut:],))
    read = list(accumulate(len(d) for d in corpus.documents))
    first = bisect_right(read, read[-1] * (1 - heldout))
    first = min(max(first, 1), len(read) - 1)
    return Split(corpus.documents[:first], corpus.documents[first:])


# ------------------------------------------------------------------------------ the bundled corpus


@dataclass(frozen=True)
class Piece:
    """One piece of the bundled corpus, told in both languages."""

    id: str
    topic: str
    split: str
    zh: str
    en: str


def bundled_path() -> Path:
    """Where the bundled corpus is: inside an installed package, or beside it in a clone."""
    here = Path(__file__).parents[1]
    for folder in (here / "data", here.parent / "data"):
        if (folder / "pieces.jsonl").is_file():
            return folder / "pieces.jsonl"
    raise UserError(f"the bundled corpus is missing beside {here}; install minibrillm again")


def bundled_pieces() -> list[Piece]:
    """The bundled parallel corpus, Chinese and English (its card: ``data/README.md``)."""
    lines = bundled_path().read_text(encoding="utf-8").splitlines()
    return [Piece(**json.loads(line)) for line in lines]


def bundled_documents(split: str, languages: Sequence[str] = LANGUAGES) -> tuple[str, ...]:
    """The pieces of one split ("train", "validation" or "test"), languages in turn.

    Raises
    ------
    UserError
        No such split or language.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    for language in languages:
        if language not in LANGUAGES:
            raise UserError(f"there is no language {language!r}; choose from zh, en")
    return tuple(
        as_document(getattr(piece, language))
        for piece in bundled_pieces()
        if piece.split == split
        for language in languages
    )


def bundled_text(split: str, languages: Sequence[str] = LANGUAGES) -> str:
    """The same pieces as one text, each on a line of its own."""
    return join_documents(bundled_documents(split, languages))


# ----------------------------------------------------------------------------------------- batches


class Batch(NamedTuple):
    """Windows to learn from."""

    tokens: Array  # (B, n + 1)
    weights: Array | None  # (B, n): 0 where the document was over; None: every position counts


class Windows:
    """Windows of n edges, drawn from a stream or from documents, never across a document's end.

    From one stream every window is as likely as any other. Of a document the windows may reach
    half their length beyond either end and are then pushed back inside, so that its first and
    last tokens are seen about as often as those in the middle. A document that is shorter than a
    window is filled up with its last token; those positions have weight 0.

    The same generator gives the same batches on every platform.

    Parameters
    ----------
    ids : integer array (N,), or a sequence of them, one a document
    sequence_length : int
        n.

    Raises
    ------
    UserError
        A stream shorter than one window, or no document with at least two tokens.
    """

    def __init__(self, ids: Array | Sequence[Array], sequence_length: int) -> None:
        documents = as_documents(ids)
        self.ids = np.concatenate(documents) if documents else np.empty(0, np.int64)
        self.sequence_length = n = sequence_length
        length = np.array([len(d) for d in documents], np.int64)
        if len(documents) < 2 and len(self.ids) < n + 1:
            raise UserError(
                f"the text has {len(self.ids)} tokens, shorter than one sequence of {n + 1}; give "
                "more text or a smaller sequence length"
            )
        if not (length > 1).any():
            raise UserError("no document has two tokens; it takes at least one edge to learn from")
        self._first = np.cumsum(length) - length  # place of each document's first token
        self._edges = length - 1
        self._reach = n // 2 if len(documents) > 1 else 0
        starts = np.maximum(self._edges - n, 0) + 1 + 2 * self._reach
        self._starts = np.where(length > 1, starts, 0)
        self._until = np.cumsum(self._starts)

    def draw(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A batch of B windows."""
        n = self.sequence_length
        drawn = rng.integers(0, self._until[-1], size=batch_size, dtype=np.int64)
        document = np.searchsorted(self._until, drawn, side="right")
        drawn -= self._until[document] - self._starts[document]  # now counted in its document
        edges = self._edges[document]
        offset = np.clip(drawn - self._reach, 0, np.maximum(edges - n, 0))
        step = np.arange(n + 1)
        inside = np.minimum(offset[:, None] + step, edges[:, None])
        tokens = self.ids[self._first[document][:, None] + inside]
        if edges.min() >= n:
            return Batch(tokens, None)
        return Batch(tokens, (step[1:] <= edges[:, None]).astype(np.float64))


def as_documents(ids: Array | Sequence[Array]) -> list[Array]:
    """A stream of token ids (N,) is one document; a sequence of streams is a list of them."""
    if isinstance(ids, np.ndarray) or len(ids) == 0 or np.ndim(ids[0]) == 0:
        return [np.asarray(ids)]
    return [np.asarray(d) for d in ids]


def longest_run(documents: Sequence[Array]) -> tuple[int, int]:
    """How often the same token stands in a row at the most, and which token that is."""
    best = 0, 0
    for ids in documents:
        if len(ids):
            start = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
            length = np.diff(np.r_[start, len(ids)])
            k = int(length.argmax())
            best = max(best, (int(length[k]), int(ids[start[k]])))
    return best


# ---------------------------------------------------------------------------- known-answer corpora


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """A source whose best possible loss is known: the next symbol depends on the last k alone.

    Parameters
    ----------
    alphabet : str
        One character a symbol; V of them.
    transitions : float array (V, …, V), k + 1 axes, k ≥ 1
        ``transitions[h_1, …, h_k, v]`` = p(v | h), the oldest symbol first.

    Raises
    ------
    UserError
        A wrong shape, rows that are no probabilities, or a chain whose course depends for ever on
        how it began, so that it has no one entropy.
    """

    alphabet: str
    transitions: Array

    def __post_init__(self) -> None:
        v, p = len(self.alphabet), np.asarray(self.transitions, np.float64)
        if len(set(self.alphabet)) != v or p.ndim < 2 or set(p.shape) != {v}:
            raise UserError(
                f"an alphabet of {v} symbols, all different, needs transitions ({v}, …, {v}) with "
                f"at least 2 axes; got {self.alphabet!r} and {p.shape}"
            )
        if not (p.min() >= 0 and np.allclose(p.sum(axis=-1), 1, atol=1e-9, rtol=0)):
            raise UserError("every row of the transitions must be probabilities that sum to 1")
        object.__setattr__(self, "transitions", p)
        _ = self.stationary  # refuses a chain without one

    @classmethod
    def random(
        cls, n_symbols: int, order: int, rng: np.random.Generator, concentration: float = 0.3
    ) -> MarkovChain:
        """A chain with random transitions, each row from a symmetric Dirichlet distribution.

        Parameters
        ----------
        n_symbols : int
            V, 2 to 26: the letters from a.
        order : int
            k: how many symbols the next one depends on.
        concentration : float
            Below 1 the rows are peaked, far above 1 nearly uniform.
        """
        if not 2 <= n_symbols <= 26 or order < 1 or not concentration > 0:
            raise UserError(
                f"expected 2 to 26 symbols, an order of at least 1 and a concentration above 0; "
                f"got {n_symbols}, {order} and {concentration}"
            )
        rows = rng.dirichlet(np.full(n_symbols, concentration), size=n_symbols**order)
        # A thousandth of everything everywhere: no state is cut off from the others.
        rows = 0.999 * rows + 0.001 / n_symbols
        letters = "abcdefghijklmnopqrstuvwxyz"[:n_symbols]
        return cls(letters, rows.reshape((n_symbols,) * (order + 1)))

    @classmethod
    def walk(cls, weights: Array, alphabet: str | None = None) -> MarkovChain:
        """The random walk on a directed graph: from node u to v in proportion to ``weights[u, v]``.

        Parameters
        ----------
        weights : array (V, V)
            At least 0, and 0 where there is no edge; of a networkx graph, its ``to_numpy_array``.
        alphabet : str, optional
            Names of the nodes; letters from a without it.
        """
        w = np.asarray(weights, np.float64)
        if w.ndim != 2 or w.shape[0] != w.shape[1] or not (w.min(initial=0) >= 0):
            raise UserError(f"weights must be (V, V) and at least 0; got {w.shape}")
        total = w.sum(axis=1, keepdims=True)
        if not (total > 0).all():
            node = int(np.flatnonzero(~(total[:, 0] > 0))[0])
            raise UserError(f"no edge leads out of node {node}: a walk would end there")
        return cls(alphabet or "abcdefghijklmnopqrstuvwxyz"[: len(w)], w / total)

    @property
    def order(self) -> int:
        """k, how many symbols the next one depends on."""
        return self.transitions.ndim - 1

    @cached_property
    def stationary(self) -> Array:
        """Long-run share of every context of k symbols, (V, …, V) with k axes, sum 1."""
        v, k = len(self.alphabet), self.order
        n = v**k
        # Context (h_1 … h_k) goes to (h_2 … h_k, v): solve π = π T, Σ π = 1.
        step = np.zeros((n, n))
        rows = np.arange(n)
        for symbol in range(v):
            step[rows, (rows * v + symbol) % n] += self.transitions.reshape(n, v)[:, symbol]
        equations = np.vstack([step.T - np.eye(n), np.ones((1, n))])
        share, _, rank, _ = np.linalg.lstsq(equations, np.r_[np.zeros(n), 1.0], rcond=1e-12)
        if rank < n:
            raise UserError("some symbols are never reached from others: connect the graph")
        return np.maximum(share, 0).reshape((v,) * k)

    def entropy(self, n_symbols: int | None = None) -> float:
        """Least possible loss in nats per symbol, for a model that sees only so many symbols.

        Parameters
        ----------
        n_symbols : int, optional
            Symbols of context, 0 … k; k without it: the entropy rate, which nothing can beat.
            With 1: what the best bigram reaches.
        """
        seen = self.order if n_symbols is None else n_symbols
        if not 0 <= seen <= self.order:
            raise UserError(f"expected 0 to {self.order} symbols of context; got {seen}")
        joint = self.stationary[..., None] * self.transitions  # p(h, v)
        joint = joint.sum(axis=tuple(range(self.order - seen)))
        context = joint.sum(axis=-1, keepdims=True)
        positive = joint > 0
        ratio = np.broadcast_to(context, joint.shape)[positive] / joint[positive]
        return float((joint[positive] * np.log(ratio)).sum())

    def sample(self, n: int, rng: np.random.Generator) -> str:
        """A text of n symbols that the chain emits, from a context drawn by its long-run share."""
        v, k = len(self.alphabet), self.order
        totals = np.cumsum(self.transitions.reshape(-1, v), axis=1)
        totals[:, -1] = 1  # whatever the rounding
        rows = totals.tolist()
        start = np.cumsum(self.stationary.ravel())
        context = min(int(np.searchsorted(start, rng.random(), side="right")), v**k - 1)
        out = [context // v ** (k - 1 - j) % v for j in range(k)]
        for u in rng.random(max(n - k, 0)).tolist():
            symbol = bisect_right(rows[context], u)
            out.append(symbol)
            context = (context * v + symbol) % v**k
        return "".join([self.alphabet[symbol] for symbol in out[:n]])


Rules = Mapping[str, Sequence[tuple[float, Sequence[str]]]]

# Subject and verb agree in number, however long the clause between them: no n-gram sees that far.
AGREEMENT: Rules = {
    "S": [(0.5, ["ONE", "DOES", "."]), (0.5, ["MANY", "DO", "."])],
    "ONE": [(0.7, ["a", "NOUN"]), (0.3, ["a", "NOUN", "that", "DOES"])],
    "MANY": [(0.7, ["two", "NOUNS"]), (0.3, ["two", "NOUNS", "that", "DO"])],
    "DOES": [(0.5, ["sleeps"]), (0.2, ["sings"]), (0.3, ["sees", "OBJECT"])],
    "DO": [(0.5, ["sleep"]), (0.2, ["sing"]), (0.3, ["see", "OBJECT"])],
    "OBJECT": [(0.6, ["ONE"]), (0.4, ["MANY"])],
    "NOUN": [(0.5, ["dog"]), (0.3, ["cat"]), (0.2, ["bird"])],
    "NOUNS": [(0.5, ["dogs"]), (0.3, ["cats"]), (0.2, ["birds"])],
}


@dataclass(frozen=True, eq=False)
class Grammar:
    """A probabilistic context-free grammar, and the entropy of the sentences it makes.

    The entropy is that of the derivations. It is the entropy of the sentences where no sentence
    has two derivations, as in `AGREEMENT`, whose next word always tells which rule was taken.

    Parameters
    ----------
    rules : dict from symbol to list of (probability, symbols)
        What is no key is a word.
    start : str

    Raises
    ------
    UserError
        Probabilities that do not sum to 1, a start without rules, or sentences without end.
    """

    rules: Rules
    start: str = "S"

    def __post_init__(self) -> None:
        if self.start not in self.rules:
            raise UserError(f"the start symbol {self.start!r} has no rules")
        for symbol, choices in self.rules.items():
            p = [share for share, _ in choices]
            if min(p, default=0) <= 0 or abs(sum(p) - 1) > 1e-9:
                raise UserError(f"the probabilities of {symbol!r} are {p}; expected a sum of 1")
        uses = self._uses
        if np.abs(np.linalg.eigvals(uses)).max() >= 1 - 1e-12:
            raise UserError("the rules make sentences of infinite mean length; end them more often")

    @cached_property
    def _uses(self) -> Array:
        """How often each symbol's expansion holds each symbol on average, (symbols, symbols)."""
        place = {symbol: k for k, symbol in enumerate(self.rules)}
        uses = np.zeros((len(place), len(place)))
        for symbol, choices in self.rules.items():
            for share, parts in choices:
                for part in parts:
                    if part in place:
                        uses[place[symbol], place[part]] += share
        return uses

    def _expected(self, own: Callable[[float, Sequence[str]], float]) -> float:
        """Mean of a sum over the rules of a derivation: x = own + uses x, at the start symbol."""
        owns = [sum(p * own(p, parts) for p, parts in rules) for rules in self.rules.values()]
        x = np.linalg.solve(np.eye(len(owns)) - self._uses, np.array(owns))
        return float(x[list(self.rules).index(self.start)])

    @property
    def sentence_entropy(self) -> float:
        """Entropy of a sentence, in nats."""
        return self._expected(lambda p, _: -math.log(p))

    @property
    def mean_length(self) -> float:
        """Words a sentence has on average."""
        return self._expected(lambda _, parts: sum(part not in self.rules for part in parts))

    @property
    def entropy(self) -> float:
        """Least possible loss in nats per word, of a text whose sentences show where they end."""
        return self.sentence_entropy / self.mean_length

    @property
    def words(self) -> list[str]:
        """Every word, in alphabetical order."""
        return sorted(
            {part for rules in self.rules.values() for _, parts in rules for part in parts}
            - set(self.rules)
        )

    def sample(self, n_sentences: int, rng: np.random.Generator) -> list[list[str]]:
        """So many sentences, each a list of words."""
        totals = {s: list(accumulate(p for p, _ in rules)) for s, rules in self.rules.items()}
        sentences = []
        for _ in range(n_sentences):
            words: list[str] = []
            open_symbols = [self.start]
            while open_symbols:
                symbol = open_symbols.pop()
                if symbol not in self.rules:
                    words.append(symbol)
                    continue
                chosen = bisect_right(totals[symbol], float(rng.random()))
                choices = self.rules[symbol]
                open_symbols += reversed(choices[min(chosen, len(choices) - 1)][1])
            sentences.append(words)
        return sentences


# --------------------------------------------------------------------------------------- downloads


def _last_column(data: bytes) -> bytes:
    """The fourth column of a table with tabs and a header: one poem a line."""
    lines = data.decode("utf-8").splitlines()[1:]
    return ("\n".join(line.split("\t")[3] for line in lines) + "\n").encode("utf-8")


@dataclass(frozen=True)
class Download:
    """A public text that is downloaded on demand, and checked.

    Parameters
    ----------
    about : str
    url : str
        Names a commit, so that what it holds cannot change.
    file : str
        Name in the cache.
    sha256 : str
        Of that file.
    text_file, text_sha256 : str
        The text made of it, and what must come out.
    extract : callable, optional
        Makes the text of the file; without it the file is the text.
    """

    about: str
    url: str
    file: str
    sha256: str
    text_file: str
    text_sha256: str
    extract: Callable[[bytes], bytes] | None = None


_SHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

DOWNLOADS: dict[str, Download] = {
    "tinyshakespeare": Download(
        "40,000 lines of Shakespeare's plays, English, public domain; 1.1 million characters",
        "https://raw.githubusercontent.com/karpathy/char-rnn/"
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "tinyshakespeare.txt",
        _SHAKESPEARE,
        "tinyshakespeare.txt",
        _SHAKESPEARE,
    ),
    "yuan": Download(
        "poems of the Yuan dynasty, Chinese, public domain, one a line; 850 thousand characters",
        "https://raw.githubusercontent.com/DevinZ1993/Chinese-Poetry-Generation/"
        "1b87fa388adefaf187cf49368ed1ea5aafe93b1e/raw_data/yuan.all",
        "yuan.all",
        "73608d494f2203fcd50cc981e61701e73cb5cf014438a875dcbbd5514a3546d4",
        "yuan.txt",
        "c06e218f5dab6a8025409ab9e53284da51f26d6259cb5b804d754dd8ead738ce",
        _last_column,
    ),
}

BUNDLED = "bundled"


def cache_folder() -> Path:
    """Where downloads are kept: ``MINIBRILLM_CACHE``, or the system's folder for such files."""
    import pooch

    return Path(os.environ.get("MINIBRILLM_CACHE") or pooch.os_cache("minibrillm"))


def _known_download(name: str) -> Download:
    if name not in DOWNLOADS:
        raise UserError(f"there is no corpus {name!r}; choose one of {', '.join(DOWNLOADS)}")
    return DOWNLOADS[name]


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def corpus_path(name: str) -> Path:
    """The file of a corpus: ``bundled``, or one that `fetch_corpus` has brought, checked again.

    Raises
    ------
    UserError
        No such corpus, or it is not on this machine.
    """
    if name == BUNDLED:
        return bundled_path()
    known = _known_download(name)
    path = cache_folder() / known.text_file
    if _sha256(path) != known.text_sha256:
        state = "damaged" if path.exists() else "not on this machine"
        raise UserError(f"the corpus {name} is {state}; run: minibrillm corpus fetch {name}")
    return path


def locate(source: str | Path) -> Path:
    """The path of a file or folder, or of a corpus if there is no such file but one of that name.

    Raises
    ------
    UserError
        Neither, or the corpus is not on this machine yet.
    """
    path = Path(source)
    if path.exists():
        return path
    if str(source) in (BUNDLED, *DOWNLOADS):
        return corpus_path(str(source))
    names = ", ".join((BUNDLED, *DOWNLOADS))
    raise UserError(f"there is no file {path}, and no corpus of that name (there are {names})")


def fetch_corpus(name: str, progress: bool = False) -> Path:
    """Download a corpus unless it is in the cache already, check it, and return its file.

    What arrived before a connection was cut is kept and the rest asked for the next time; a file
    counts only once its sha256 is right.

    Parameters
    ----------
    name : str
        A key of `DOWNLOADS`.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    UserError
        No connection, a wrong checksum, or a cache that cannot be written: says where the file
        is expected, so that it can be put there by other means.
    """
    known = _known_download(name)
    folder = cache_folder()
    text = folder / known.text_file
    if _sha256(text) == known.text_sha256:
        return text
    try:
        file = _fetch(known, folder, progress)
        if known.extract is not None:
            _write_whole(text, known.extract(file.read_bytes()))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    return text


def _fetch(known: Download, folder: Path, progress: bool) -> Path:
    """The checked file of a download, by pooch."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    part = folder / f"{known.file}.part"
    store = pooch.create(folder, "", registry={known.file: f"sha256:{known.sha256}"})
    store.urls = {known.file: known.url}

    def resume(url: str, output: str, _: Any) -> None:
        headers = {"Accept-Encoding": "identity"}
        if part.exists():
            headers["Range"] = f"bytes={part.stat().st_size}-"
        with part.open("ab") as end:
            pooch.HTTPDownloader(progress, 4096, headers=headers)(url, end, store)
        part.replace(output)

    otherwise = f"try again, or save it by other means as {folder / known.file}"
    resumed = part.exists()
    try:
        try:
            store.fetch(known.file, downloader=resume)
        except (ValueError, requests.HTTPError):
            if not resumed:
                raise
            part.unlink(missing_ok=True)  # the beginning was not that of this file: once more
            store.fetch(known.file, downloader=resume)
    except requests.HTTPError as error:
        part.unlink(missing_ok=True)
        status = "an error" if error.response is None else error.response.status_code
        raise UserError(f"the server refused {known.url} ({status}); {otherwise}") from None
    except requests.ConnectionError as error:
        raise UserError(f"no connection to {known.url} ({_reason(error)}); {otherwise}") from None
    except requests.RequestException as error:
        kept = f"; {part.stat().st_size:,} bytes are kept" if part.exists() else ""
        raise UserError(f"the download of {known.url} broke off{kept}; {otherwise}") from error
    except ValueError:
        raise UserError(
            f"what came from {known.url} has not the sha256 {known.sha256} and was not kept; "
            f"{otherwise}"
        ) from None
    return folder / known.file


def _reason(error: BaseException) -> str:
    """The innermost cause of a failed connection, in a few words."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    reason = getattr(error, "reason", error)
    return re.sub(r"^.*?: ", "", str(reason))


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
