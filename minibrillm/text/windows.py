"""Windows of a text, drawn at random: what one training step learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minibrillm.checks import UserError, as_documents

Array = np.ndarray


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
    ids : integers (N,), or a list of such, one a document
        As `minibrillm.checks.as_documents` takes them.
    sequence_length : int
        n.

    Raises
    ------
    UserError
        A stream shorter than one window, no document with at least two tokens, or no token ids.
    """

    def __init__(self, ids: Array | Sequence[Array], sequence_length: int) -> None:
        documents = as_documents(ids)
        self.ids = np.concatenate(documents)
        self.sequence_length = n = sequence_length
        length = np.array([len(d) for d in documents], np.int64)
        if len(documents) < 2 and len(self.ids) < n + 1:
            raise UserError(
                f"the text has {len(self.ids)} tokens, shorter than one sequence of {n + 1}; give "
                "more text or a smaller sequence_length"
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
