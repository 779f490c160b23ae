"""Tokens, candidates and weights that a caller gives: the kernels trust what has passed here."""

from __future__ import annotations

import numpy as np

from minibrillm.checks.above import Standing
from minibrillm.checks.errors import UserError

Array = np.ndarray


def check_ids(ids: Array, n_nodes: int) -> Array:
    """Token ids of any shape as int64; a `UserError` unless all are integers in 0 … V - 1."""
    if ids.size and ids.dtype.kind not in "iu":
        raise UserError(f"token ids must be integers, got {ids.dtype}; use tokenizer.encode")
    if ids.size and (ids.min() < 0 or ids.max() >= n_nodes):
        raise UserError(f"token ids must lie in 0 … {n_nodes - 1}; got {ids.min()} … {ids.max()}")
    return ids.astype(np.int64)


def as_array(values: object, what: str) -> Array:
    """An array of what should be one; a `UserError` for None, text or rows of unequal length."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise UserError(
            f"{what} have rows of unequal length; fill them up and give weight 0 to what was added"
        ) from None
    if array.dtype.kind in "OUSV":
        shown = type(values).__name__ if values is None or isinstance(values, str) else array.dtype
        raise UserError(f"{what} must be numbers, got {shown}; use tokenizer.encode for a text")
    return array


def check_batch(
    tokens: object, n_nodes: int, least: int, state: Standing | None, limit: int | None
) -> Array:
    """Tokens of one stream (T,) or several (B, T) as an int64 array (B, T).

    Parameters
    ----------
    least : int
        T at least. If that is 2 or more, the first tokens are those at which ``state`` stands.
    state : State, optional
        The memory of the streams that go on with these tokens.
    limit : int, optional
        Edges that may be crossed in all.

    Raises
    ------
    UserError
        Anything else.
    """
    array = as_array(tokens, "tokens")
    batch = np.atleast_2d(array)
    if batch.ndim != 2 or batch.size == 0 or batch.shape[1] < least:
        raise UserError(f"expected tokens (T,) or (B, T) with T >= {least}; got {array.shape}")
    batch = check_ids(batch, n_nodes)
    end = batch.shape[1] - 1 + (0 if state is None else state.position)
    if limit is not None and end > limit:
        raise UserError(
            f"this model knows {limit} positions (memory 'position'), the text needs {end}; "
            "shorten it or read it in windows"
        )
    if state is None:
        return batch
    if len(state.node) != len(batch):
        raise UserError(
            f"the state holds {len(state.node)} stream(s), the tokens {len(batch)}; "
            "give each stream its own row"
        )
    if least > 1 and not np.array_equal(batch[:, 0], state.node):
        raise UserError(
            f"the streams stand at the nodes {state.node.tolist()}, so these must be the first "
            f"tokens; got {batch[:, 0].tolist()}: prepend the last token read"
        )
    return batch


def check_candidates(candidates: object, batch: Array, n_nodes: int) -> Array | None:
    """Candidates (B, n, C) of a batch (B, n + 1), the true next token first, as int64."""
    if candidates is None:
        return None
    chosen = as_array(candidates, "candidates")
    shape = (batch.shape[0], batch.shape[1] - 1)
    if chosen.ndim != 3 or chosen.shape[:2] != shape or chosen.shape[2] == 0:
        raise UserError(f"candidates must have shape {(*shape, 'C')}; got {chosen.shape}")
    if chosen.dtype.kind not in "iu":
        raise UserError(f"candidates must be integers, got {chosen.dtype}")
    if chosen.min() < 0 or chosen.max() >= n_nodes:
        raise UserError(f"candidates must lie in 0 … {n_nodes - 1}")
    if not np.array_equal(chosen[..., 0], batch[:, 1:]):
        raise UserError("the first candidate of each position must be the true next token")
    return chosen.astype(np.int64)


def check_weights(weights: object, batch: Array) -> Array | None:
    """How much each position (B, n) of a batch (B, n + 1) counts, as float64."""
    if weights is None:
        return None
    shape = (batch.shape[0], batch.shape[1] - 1)
    found = as_array(weights, "weights").astype(np.float64)
    if found.shape != shape or not (found.min() >= 0 and 0 < found.sum() < np.inf):
        raise UserError(
            f"weights must be {shape} numbers of at least 0, not all of them 0; got an array "
            f"{found.shape} from {found.min(initial=np.inf)} to {found.max(initial=-np.inf)}"
        )
    return found
