"""Token ids from a caller: one document or several, or a refusal that says what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from minibrillm.checks.errors import UserError

Array = np.ndarray
Ids = Array | Sequence[int] | Sequence[Array] | Sequence[Sequence[int]]  # one or several documents


def as_documents(ids: Ids, n_nodes: int | None = None) -> list[Array]:
    """The documents of a text, given as token ids.

    Parameters
    ----------
    ids : integers (N,), or a list or tuple of such, one a document
        Arrays or lists of integers. A list of integers is one document; so is an empty list.
    n_nodes : int, optional
        V: every id must lie in 0 … V - 1.

    Returns
    -------
    list of int64 arrays (N_k,); one that is int64 already is not copied

    Raises
    ------
    UserError
        Anything else, such as None, a text, numbers with a fraction or an array of two axes.
    """
    if isinstance(ids, list | tuple) and len(ids) and _is_document(ids[0]):
        return [as_ids(document, n_nodes, f"ids[{k}]") for k, document in enumerate(ids)]
    return [as_ids(ids, n_nodes)]


def as_ids(ids: Any, n_nodes: int | None = None, name: str = "ids") -> Array:
    """Token ids as an int64 array (N,), not copied if it is one; else a `UserError`.

    Parameters
    ----------
    ids : integers (N,), an array or a list
    n_nodes : int, optional
        V: every id must lie in 0 … V - 1.
    name : str
        What the message calls them.
    """
    try:
        array = np.asarray(ids)
    except ValueError:
        raise _refusal(name, "lists of different lengths or depths", _FROM_TEXT) from None
    if array.ndim == 0:
        cure = _ENCODE if isinstance(ids, str | bytes) else _FROM_TEXT
        what = "None" if ids is None else f"the {type(ids).__name__} {reprlib.repr(ids)}"
        raise _refusal(name, what, cure)
    if array.ndim > 1:
        raise _refusal(name, f"{array.dtype} {array.shape}", _AS_LIST)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        cure = _ENCODE if array.dtype.kind in "US" else _FROM_TEXT
        raise _refusal(name, f"{array.dtype} {array.shape}", cure)
    if n_nodes is not None and (array.min() < 0 or array.max() >= n_nodes):
        raise UserError(
            f"token ids must lie in 0 … {n_nodes - 1}; got {array.min()} … {array.max()} in {name} "
            "(was the text encoded with another tokenizer?)"
        )
    return array.astype(np.int64, copy=False)


_FROM_TEXT = "tokenizer.encode gives the ids of a text"
_ENCODE = "encode the text first (tokenizer.encode)"
_AS_LIST = "several documents go as a list of one-dimensional arrays"


def _refusal(name: str, what: str, cure: str) -> UserError:
    return UserError(f"{name} must be a one-dimensional array of integers; got {what}; {cure}")


def _is_document(first: Any) -> bool:
    """Whether the first of a list is a document, or a text in its place, rather than a number."""
    return hasattr(first, "__len__") and getattr(first, "ndim", 1) > 0


def check_goes_on(progress: float, step: int) -> None:
    """Whether there is anything left of a training of which the share ``progress`` is over."""
    if progress >= 1:
        raise UserError(
            f"this training is over after {step} steps; to go on, make a new Trainer with the same "
            "model, which keeps what it has learned"
        )


def check_training(heldout: Sequence[Array], sequence_length: int, limit: int | None) -> None:
    """Whether held-out documents can be scored, and sequences crossed (``limit`` edges at most)."""
    longest = max(map(len, heldout))
    if longest < 2:
        raise UserError(f"the held-out text has {longest} tokens; it takes at least 2")
    if limit is not None and sequence_length > limit:
        raise UserError(
            f"sequence_length is {sequence_length}, but the model knows only {limit} positions "
            "(max_positions)"
        )
