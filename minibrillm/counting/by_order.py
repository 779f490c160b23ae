"""Which order of n-gram foretells a held-out text best?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minibrillm.checks import UserError, as_documents
from minibrillm.counting.grams import count_grams, find, shift
from minibrillm.counting.kneser_ney import interpolate, level_of, lower_level

Array = np.ndarray


def loss_by_order(
    train_ids: Array | Sequence[Array],
    dev_ids: Array | Sequence[Array],
    n_nodes: int,
    max_order: int = 7,
) -> dict[int, float]:
    """Held-out loss of `KneserNey` for every order 1 … max_order, from one count of the text.

    Orders below the highest are the same in all these models, so each is built once; what differs
    is the top, which takes raw counts. ``min(losses, key=losses.get)`` is the best order.

    Parameters
    ----------
    train_ids : integer array (N,), or a list of them
    dev_ids : integer array (M,), M ≥ 2, or a list of them
        The first token (of each document) is context only.
    n_nodes : int
        V.
    max_order : int

    Returns
    -------
    dict from order to mean loss in nats per token

    Raises
    ------
    UserError
        As `KneserNey.fit`, or fewer than two held-out tokens.
    """
    documents = as_documents(dev_ids, n_nodes)
    stream = np.concatenate(documents) if documents else np.empty(0, np.int64)
    first = np.cumsum([0, *map(len, documents)])[:-1]  # place of each document's first token
    scored = np.ones(len(stream), bool)
    scored[first] = False
    if not scored.any():
        raise UserError("dev_ids needs at least two tokens, the first is context only; got one")
    tables = count_grams(train_ids, n_nodes, max_order)
    losses = {}
    context = np.zeros(len(stream), np.int64)
    p_below = np.full(len(stream), 1 / n_nodes)
    for k, table in enumerate(tables, start=1):
        gram = find(table.keys, context * n_nodes + stream)
        p = interpolate(level_of(table, n_nodes, table.counts), context, gram, p_below)
        losses[k] = float(-np.log(p[scored]).mean())
        if k < max_order:
            lower = lower_level(table, tables[k], n_nodes)
            p_below = interpolate(lower, context, gram, p_below)
            context = shift(gram)
            context[first] = -1  # no context reaches back into another document
    return losses
