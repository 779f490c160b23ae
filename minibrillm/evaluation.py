"""How good is a model on text it has not seen? Beside n-grams, on the same tokens."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minibrillm.errors import UserError
from minibrillm.model import BriLLM
from minibrillm.ngram import loss_by_order

Array = np.ndarray

WINDOW = 256
_STREAM_CHUNK = 4096
_BATCH_POSITIONS = 16384


def stream_loss(model: BriLLM, ids: Array) -> float:
    """Mean nats per token of a text read as one stream, the first token given.

    Raises
    ------
    UserError
        The text is longer than the positions a model with memory ``position`` knows.
    """
    total, state = 0.0, None
    for first in range(0, len(ids) - 1, _STREAM_CHUNK):
        chunk = ids[first : first + _STREAM_CHUNK + 1]
        nll, state = model.nll(chunk[None], state)
        total += float(nll.sum(dtype=np.float64))
    return total / (len(ids) - 1)


def window_loss(model: BriLLM, ids: Array, width: int = WINDOW) -> float:
    """Mean nats per token of a text read in windows of ``width`` edges, each from an empty memory.

    Windows share one token, so that every token but the first is scored exactly once. A model
    that knows fewer positions (memory ``position``) gets windows of as many as it knows.
    """
    width = _width(model, width)
    n = len(ids) - 1
    full = n // width
    windows = ids[np.arange(full)[:, None] * width + np.arange(width + 1)]
    at_once = max(1, _BATCH_POSITIONS // width)
    batches = [windows[k : k + at_once] for k in range(0, full, at_once)]
    if full * width < n:
        batches.append(ids[None, full * width :])
    total = sum(float(model.nll(batch)[0].sum(dtype=np.float64)) for batch in batches)
    return total / n


def _width(model: BriLLM, width: int) -> int:
    return width if model.max_positions is None else min(width, model.max_positions)


@dataclass(frozen=True)
class Score:
    """One line of the table of results."""

    model: str
    nats_per_token: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float | None  # None: the bytes of unknown characters are not known


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model and of n-grams on one held-out text."""

    tokens: int
    characters: int
    bytes: int | None
    unknown: int  # tokens that the vocabulary lacks; they are predicted as <unk>
    scores: list[Score]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return asdict(self)

    def table(self) -> str:
        """The scores as lines of text."""
        head = ("", "nats/token", "perplexity", "bits/char", "bits/byte")
        rows = [
            (
                s.model,
                f"{s.nats_per_token:.4f}",
                f"{s.perplexity:.2f}",
                f"{s.bits_per_character:.4f}",
                "-" if s.bits_per_byte is None else f"{s.bits_per_byte:.4f}",
            )
            for s in self.scores
        ]
        wide = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(pairs)
            )
            for pairs in (list(zip(row, wide, strict=True)) for row in (head, *rows))
        ]
        note = f"held-out text: {self.tokens} tokens, {self.characters} characters"
        if self.unknown:
            note += f"; {self.unknown} ({self.unknown / self.tokens:.1%}) of them scored as <unk>"
        return "\n".join([*lines, note, *([self.note] if self.note else [])])


def evaluate(
    model: BriLLM, ids: Array, train_ids: Array | None = None, text: str | None = None
) -> Evaluation:
    """Score a held-out text: as one stream, in windows of 256, and with n-grams beside.

    Parameters
    ----------
    ids : integer array (N,)
        The held-out text; its first token is given, the N - 1 others are predicted.
    train_ids : integer array, optional
        The training text, for the n-grams: unigram, bigram and the best order up to 7 (modified
        Kneser-Ney; the best is chosen on this very text, to the n-grams' favour).
    text : str, optional
        The text that ``ids`` encodes: counts the bytes of characters that read as <unk>.

    Returns
    -------
    Evaluation: nats per token and perplexity over the whole vocabulary, bits per character and
    per byte of the text (bytes are None where they cannot be known)
    """
    if len(ids) < 2:
        raise UserError(f"an evaluation needs at least 2 tokens of text; got {len(ids)}")
    unknown = model.tokenizer.unknown_id
    missing = 0 if unknown is None else int((ids[1:] == unknown).sum())
    scored = model.tokenizer.decode(ids[1:])
    n, characters, size = len(ids) - 1, len(scored), len(scored.encode("utf-8"))
    size_known = size if missing == 0 else None
    if missing and text is not None:  # an unknown token is not the text that was read
        scored = text[len(model.tokenizer.decode(ids[:1])) :]
        characters, size_known = len(scored), len(scored.encode("utf-8"))

    def score(name: str, nats: float) -> Score:
        bits = nats * n / math.log(2)
        per_byte = None if size_known is None else bits / size_known
        return Score(name, nats, math.exp(min(nats, 700)), bits / characters, per_byte)

    scores = []
    if train_ids is not None:
        by_order = loss_by_order(train_ids, ids, model.graph.n_nodes, 7)
        best = min(by_order, key=lambda order: by_order[order])
        scores += [score("unigram", by_order[1]), score("bigram, Kneser-Ney", by_order[2])]
        scores.append(score(f"best n-gram, Kneser-Ney ({best}-gram)", by_order[best]))
    width = _width(model, WINDOW)
    scores.append(score(f"BriLLM, windows of {width}", window_loss(model, ids, width)))
    if model.max_positions is None or n <= model.max_positions:
        scores.append(score("BriLLM, one stream", stream_loss(model, ids)))
        note = ""
    else:
        note = f"not read as one stream: the model knows {model.max_positions} positions"
    return Evaluation(n, characters, size_known, missing, scores, note)
