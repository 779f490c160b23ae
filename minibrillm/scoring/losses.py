"""Held-out loss of anything that tells −log p: as one stream, or in windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from minibrillm.checks import as_documents

Array = np.ndarray

WINDOW = 256
_STREAM_CHUNK = 4096
_BATCH_POSITIONS = 16384
_CURVE_TOKENS = 128 * WINDOW  # of the held-out text, for the curve; the final table reads it all


class Scored(Protocol):
    """What is asked of a model to score it."""

    @property
    def max_positions(self) -> int | None:
        """Edges a stream may cross; None: no limit."""

    def nll(self, tokens: Array, state: Any = None) -> tuple[Array, Any]:
        """−log p of every token but the first, (B, n + 1) -> (B, n), and the memory after."""


def stream_loss(model: Scored, ids: Array | Sequence[Array]) -> float:
    """Mean nats per token of a text read as one stream, the first token given.

    Of several documents each is a stream of its own. Infinite where the signal outgrows its
    numbers (MODEL.md, "Memory"), for no answer is left.

    Raises
    ------
    UserError
        The text is longer than the positions a model with memory ``position`` knows.
    """
    documents = as_documents(ids)
    short = [d for d in documents if len(d) <= _STREAM_CHUNK + 1]
    total = _nll_of_pieces(model, short)
    for document in documents:
        if len(document) <= _STREAM_CHUNK + 1:
            continue
        state = None
        for first in range(0, len(document) - 1, _STREAM_CHUNK):
            chunk = document[first : first + _STREAM_CHUNK + 1]
            nll, state = _nll(model, chunk[None], state)
            total += _nats(nll)
    return total / n_edges(documents)


def window_loss(model: Scored, ids: Array | Sequence[Array], width: int = WINDOW) -> float:
    """Mean nats per token of a text read in windows of ``width`` edges, each from an empty memory.

    Windows share one token, so that every token (of a document) but the first is scored exactly
    once. A model that knows fewer positions (memory ``position``) gets windows of as many as it
    knows. Infinite where the signal outgrows its numbers, as in `stream_loss`.
    """
    width, documents = width_of(model, width), as_documents(ids)
    pieces = [d[k : k + width + 1] for d in documents for k in range(0, len(d) - 1, width)]
    return _nll_of_pieces(model, pieces) / n_edges(documents)


def n_edges(documents: Sequence[Array]) -> int:
    """How many tokens of documents, one array each, are foretold: all but the first of each."""
    return sum(max(len(d) - 1, 0) for d in documents)


def _nll_of_pieces(model: Scored, pieces: Sequence[Array]) -> float:
    """Nats of all pieces together, each read from an empty memory; many at once, of like length."""
    waiting = sorted((p for p in pieces if len(p) > 1), key=len, reverse=True)
    total = 0.0
    while waiting:
        n = len(waiting[0]) - 1
        at_once = max(1, _BATCH_POSITIONS // n)
        batch, waiting = waiting[:at_once], waiting[at_once:]
        edges = np.array([len(p) - 1 for p in batch])
        tokens = np.stack([np.pad(p, (0, n + 1 - len(p)), mode="edge") for p in batch])
        nll, _ = _nll(model, tokens)
        total += _nats(nll[np.arange(n) < edges[:, None]])
    return total


def _nll(model: Scored, tokens: Array, state: Any = None) -> tuple[Array, Any]:
    with np.errstate(over="ignore", invalid="ignore"):  # `_nats` looks after them
        return model.nll(tokens, state)


def _nats(nll: Array) -> float:
    """Their sum. A signal that has outgrown its numbers leaves NaN: an infinite surprise."""
    total = float(nll.sum(dtype=np.float64))
    return math.inf if math.isnan(total) else total


def width_of(model: Scored, width: int) -> int:
    """Positions of a window: ``width``, or as many as the model knows if those are fewer."""
    return width if model.max_positions is None else min(width, model.max_positions)


def curve_part(documents: Sequence[Array]) -> list[Array]:
    """The first documents of a held-out text: enough for a curve, quick to score."""
    part, read = [], 0
    for document in documents:
        if read < _CURVE_TOKENS:
            part.append(document[: _CURVE_TOKENS - read + 1])
            read += len(document)
    return part
