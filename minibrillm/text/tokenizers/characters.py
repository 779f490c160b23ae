"""One node a character: the natural choice for Chinese and for small graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minibrillm.checks import UserError
from minibrillm.text.tokenizers.base import Tokenizer, check_n_nodes, json_field
from minibrillm.text.tokenizers.code_points import REPLACEMENT, code_points, label, text_of

UNKNOWN_ID = 0
UNKNOWN_LABEL = "<unk>"


class CharacterTokenizer(Tokenizer):
    """One node a character; node 0 stands for every character that is not in the alphabet.

    Parameters
    ----------
    alphabet : str
        Distinct characters in code-point order; character k is node k + 1.
    """

    kind = "characters"

    def __init__(self, alphabet: str) -> None:
        points = code_points(alphabet)
        if points.size == 0:
            raise UserError("the alphabet is empty; expected at least one character")
        if np.any(points[1:] <= points[:-1]):
            raise UserError("the alphabet must hold distinct characters in code-point order")
        self.alphabet = alphabet
        self._alphabet_points = points
        self._node_points = np.concatenate(([ord(REPLACEMENT)], points))

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
        points, counts = np.unique(code_points(text), return_counts=True)
        if points.size == 0:
            raise UserError("the training text is empty; expected at least one character")
        if n_nodes is not None:
            check_n_nodes(n_nodes, 2, f"{UNKNOWN_LABEL} and one character")
            # A stable sort of points that are already in order settles ties by code point.
            most_frequent = np.argsort(-counts, kind="stable")[: n_nodes - 1]
            points = np.sort(points[most_frequent])
        return cls(text_of(points))

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
        points = code_points(text)
        place = np.searchsorted(self._alphabet_points, points)
        # A code point beyond the last one gets a place after the end: look at the last instead.
        place = np.minimum(place, len(self._alphabet_points) - 1)
        known = self._alphabet_points[place] == points
        return np.where(known, place + 1, UNKNOWN_ID).astype(np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of node ids, (n_tokens,); node 0 becomes U+FFFD (�)."""
        return text_of(self._node_points[self._checked_ids(ids)])

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield one character for every id."""
        for node in ids:
            yield self.decode([node])

    def token(self, node: int) -> str:
        """Label of one node for plots."""
        node = self._checked_id(node)
        return UNKNOWN_LABEL if node == UNKNOWN_ID else label(self.alphabet[node - 1])

    def unknown(self, text: str) -> list[str]:
        """Distinct characters outside the alphabet, in code-point order."""
        return list(text_of(np.setdiff1d(code_points(text), self._alphabet_points)))

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "characters", "alphabet": str}``."""
        return {"kind": self.kind, "alphabet": self.alphabet}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CharacterTokenizer:
        """Rebuild from `to_json`."""
        try:
            return cls(json_field(data, "alphabet", str))
        except UserError as error:
            raise UserError(f"bad tokenizer: {error}") from None
