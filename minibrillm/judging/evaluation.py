"""How good is a model on text it has not seen? Beside n-grams, on the same tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from minibrillm.checks import UserError, as_documents
from minibrillm.counting import loss_by_order
from minibrillm.judging.tables import number, table
from minibrillm.judging.verdict import who_is_ahead, worse_than_guessing
from minibrillm.model import BriLLM
from minibrillm.scoring import WINDOW, n_edges, stream_loss, width_of, window_loss
from minibrillm.text import Tokenizer

Array = np.ndarray

_LARGEST_EXPONENT = 709.0  # of e, in double precision
_HIGHEST_ORDER = 7  # of the n-grams beside


@dataclass(frozen=True)
class Score:
    """One line of the table of results."""

    model: str
    nats_per_token: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float | None  # None: the bytes of unknown characters are not known


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of a model and of n-grams on one held-out text."""

    tokens: int
    characters: int
    bytes: int | None
    unknown: int  # tokens that the vocabulary lacks; they are predicted as <unk>
    scores: list[Score]
    note: str = ""
    verdict: str = ""  # who is ahead, and why if it is not BriLLM

    def __repr__(self) -> str:
        return self.table()  # what a notebook shows

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; None stands for infinity, which JSON does not know."""
        scores = [
            {k: None if v == math.inf else v for k, v in vars(score).items()}
            for score in self.scores
        ]
        return {**asdict(self), "scores": scores}

    def table(self) -> str:
        """The scores as lines of text, and the verdict as the last."""
        head = ("", "nats/token", "perplexity", "bits/char", "bits/byte")
        rows = [
            (
                s.model,
                number(s.nats_per_token),
                number(s.perplexity, 2),
                number(s.bits_per_character),
                "-" if s.bits_per_byte is None else number(s.bits_per_byte),
            )
            for s in self.scores
        ]
        note = f"held-out text: {self.tokens} tokens, {self.characters} characters"
        if self.unknown:
            note += f"; {self.unknown} ({self.unknown / self.tokens:.1%}) of them scored as <unk>"
        return "\n".join([*table(head, rows), note, *(x for x in (self.note, self.verdict) if x)])


def evaluate(
    model: BriLLM,
    ids: Array | Sequence[Array],
    train_ids: Array | Sequence[Array] | None = None,
    text: str | Sequence[str] | None = None,
    kept: tuple[int, int] | None = None,
) -> Evaluation:
    """Score a held-out text: as one stream, in windows of 256, and with n-grams beside.

    Parameters
    ----------
    ids : integer array (N,), or a sequence of them, one a document
        The held-out text; its first token is given, the N - 1 others are predicted.
    train_ids : integer array or a sequence of them, optional
        The training text, for the n-grams: unigram, bigram and the best order up to 7 (modified
        Kneser-Ney; the best is chosen on this very text, to the n-grams' favour).
    text : str or sequence of str, optional
        The text that ``ids`` encodes: counts the bytes of characters that read as <unk>.
    kept : (int, int), optional
        The step whose weights the model has, and the last step of its training.

    Returns
    -------
    Evaluation: nats per token and perplexity over the whole vocabulary, bits per character and
    per byte of the text (bytes are None where they cannot be known)
    """
    documents = as_documents(ids)
    text_size = _size(model.tokenizer, documents, text)
    counted: dict[str, float] = {}
    if train_ids is not None:
        by_order = loss_by_order(train_ids, ids, model.graph.n_nodes, _HIGHEST_ORDER)
        best = min(by_order, key=lambda order: by_order[order])
        counted = {
            "unigram": by_order[1],
            "bigram, Kneser-Ney": by_order[2],
            f"best n-gram, Kneser-Ney ({best}-gram)": by_order[best],
        }
    name = "BriLLM" if kept is None else f"BriLLM of step {kept[0]}"
    ours, note = _readings(model, documents, name)
    verdict = worse_than_guessing(ours, model.graph.n_nodes, model.config)
    if not verdict and train_ids is not None:
        n_tokens = sum(map(len, as_documents(train_ids)))
        least = min(ours.values())
        verdict = who_is_ahead(least, by_order[best], best, n_tokens, model.n_parameters, kept)
    scores = [_score(name, nats, text_size) for name, nats in (counted | ours).items()]
    return Evaluation(*text_size, scores, note, verdict)


class _Size(NamedTuple):
    """What is foretold of a held-out text; the fields of an `Evaluation`."""

    tokens: int
    characters: int
    bytes: int | None
    unknown: int


def _size(
    tokenizer: Tokenizer, documents: Sequence[Array], text: str | Sequence[str] | None
) -> _Size:
    """Count all but the first token of each document; a `UserError` where nothing is left."""
    n = n_edges(documents)
    if n == 0:
        longest = max(len(d) for d in documents)
        raise UserError(f"an evaluation needs at least 2 tokens of text; got {longest}")
    unknown_id = tokenizer.unknown_id
    unknown = 0 if unknown_id is None else sum(int((d[1:] == unknown_id).sum()) for d in documents)
    scored = "".join(tokenizer.decode(d[1:]) for d in documents)
    if unknown and text is not None:  # <unk> is not the text that was read
        texts = [text] if isinstance(text, str) else text
        pairs = zip(texts, documents, strict=True)
        scored = "".join(t[len(tokenizer.decode(d[:1])) :] for t, d in pairs)
    all_known = not unknown or text is not None
    return _Size(n, len(scored), len(scored.encode("utf-8")) if all_known else None, unknown)


def _readings(model: BriLLM, documents: Sequence[Array], name: str) -> tuple[dict[str, float], str]:
    """Nats per token in windows and as one stream, and why if a reading is missing."""
    width = width_of(model, WINDOW)
    losses = {f"{name}, windows of {width}": window_loss(model, documents, width)}
    longest = max(len(d) for d in documents)
    if model.max_positions is not None and longest - 1 > model.max_positions:
        return losses, f"not read as one stream: the model knows {model.max_positions} positions"
    how = "one stream" if len(documents) == 1 else "document by document"
    losses[f"{name}, {how}"] = stream_loss(model, documents)
    return losses, ""


def _score(name: str, nats: float, size: _Size) -> Score:
    bits = nats * size.tokens / math.log(2)
    per_byte = None if size.bytes is None else bits / size.bytes
    perplexity = math.exp(nats) if nats < _LARGEST_EXPONENT else math.inf
    return Score(name, nats, perplexity, bits / size.characters, per_byte)
