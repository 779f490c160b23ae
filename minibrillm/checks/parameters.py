"""The named arrays of a model: do they fit?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minibrillm.checks.errors import UserError

Array = np.ndarray

_AT_ONCE = 1 << 16  # numbers checked or drawn in one go: whole arrays would take temporary copies


def blocks(array: Array) -> Iterator[Array]:
    """A contiguous array piece by piece, as views."""
    flat = array.reshape(-1)
    return (flat[first : first + _AT_ONCE] for first in range(0, flat.size, _AT_ONCE))


def check_parameters(
    shapes: Mapping[str, tuple[int, ...]], parameters: Mapping[str, Array]
) -> None:
    """Refuse a missing, unknown, misshapen or non-finite array, by name (`UserError`)."""
    for name in shapes.keys() ^ parameters.keys():
        state = "is missing" if name in shapes else "is not part of this model"
        raise UserError(f"the parameter {name!r} {state}")
    dtype = next(iter(parameters.values())).dtype
    for name, array in parameters.items():
        if array.shape != shapes[name]:
            raise UserError(
                f"the parameter {name!r} has shape {array.shape}, expected {shapes[name]}"
            )
        if array.dtype not in (np.float32, np.float64) or array.dtype != dtype:
            raise UserError(
                f"the parameter {name!r} is {array.dtype}; expected all float32 or all float64"
            )
        if not all(np.isfinite(block).all() for block in blocks(array)):
            raise UserError(
                f"the parameter {name!r} holds NaN or infinity; go back to an earlier checkpoint"
            )


def check_prior(config: Any) -> None:
    """Whether a prior that tells unseen targets apart meets edges that do not."""
    if config.prior == "ngrams" and config.edge_kind.has_class:
        raise UserError(
            f"the prior 'ngrams' tells unseen targets apart, {config.edges} edges make one class "
            "of them; take edges='three_part', or prior='hebbian'"
        )


def check_parts(config: Any, tokenizer: Any, graph: Any, backend: str) -> None:
    """Whether the parts of a model are made for each other; else a `UserError`."""
    if backend not in ("numba", "numpy"):
        raise UserError(f"there is no backend {backend!r}; choose one of numba, numpy")
    if tokenizer.n_nodes != graph.n_nodes:
        raise UserError(
            f"the tokenizer knows {tokenizer.n_nodes} tokens, the graph has {graph.n_nodes} "
            "nodes; they must come from the same run"
        )
    order = 0 if graph.ngrams is None else graph.ngrams.order
    wanted = config.prior_order if config.prior == "ngrams" else 0
    found = "no prior" if graph.prior is None else "a prior"
    if (graph.prior is not None) != (config.prior != "none") or order != wanted:
        raise UserError(
            f"the config says prior {config.prior!r} (n-grams of order {wanted}) but the graph has "
            f"{found} and n-grams of order {order}; build it with TokenGraph.for_config"
        )
