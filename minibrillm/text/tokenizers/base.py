"""What every tokenizer can do."""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from minibrillm.checks import UserError, as_ids


class Tokenizer(ABC):
    """Text to node ids and back; make one with `train_tokenizer` or `tokenizer_from_json`.

    A character that no node can represent becomes the node `unknown_id`, or is refused where there
    is none; `unknown` tells beforehand which characters of a text these are.
    """

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
            If the text is no string, holds a lone surrogate, or holds a character that no node
            can represent (`unknown`) where no node stands for unknown ones (`unknown_id`).
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
        """Distinct characters of a text that no node can represent, in code-point order.

        Where `unknown_id` is None, `encode` refuses a text that holds one of them.
        """

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_nodes={self.n_nodes})"

    def _checked_ids(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Node ids as int64 (n_tokens,), or a `UserError` that says what is wrong with them."""
        if isinstance(ids, str | bytes):
            raise UserError(
                f"ids is the {type(ids).__name__} {reprlib.repr(ids)}, a text; expected node ids, "
                "a one-dimensional sequence of integers"
            )
        array = as_ids(ids)
        outside = array[(array < 0) | (array >= self.n_nodes)]
        if outside.size:
            raise UserError(
                f"there is no node {int(outside[0])}; this tokenizer has the nodes 0 to "
                f"{self.n_nodes - 1} (was the text encoded with another tokenizer?)"
            )
        return array

    def _checked_id(self, node: int) -> int:
        if not hasattr(node, "__index__") or isinstance(node, bool):
            raise UserError(f"node is {reprlib.repr(node)}; expected an integer")
        return int(self._checked_ids([node])[0])


def check_n_nodes(n_nodes: int, low: int, why: str) -> None:
    """Refuse a number of nodes that is no integer or below ``low``; ``why`` says why so many."""
    if isinstance(n_nodes, bool) or not isinstance(n_nodes, int | np.integer) or n_nodes < low:
        raise UserError(f"n_nodes is {n_nodes!r}; expected an integer of at least {low} ({why})")


def json_field(data: dict[str, Any], key: str, kind: type[str] | type[list]) -> Any:
    """Value of a key of a tokenizer's JSON, of the type it must have."""
    if key not in data:
        raise UserError(f"bad tokenizer: the key {key!r} is missing")
    if not isinstance(data[key], kind):
        raise UserError(
            f"bad tokenizer: {key!r} is {reprlib.repr(data[key])}; "
            f"expected a {'string' if kind is str else 'list'}"
        )
    return data[key]
