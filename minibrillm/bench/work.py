"""What a training step must do, counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph

Array = np.ndarray


@dataclass(frozen=True)
class Work:
    """What one training step must do, whatever the program.

    Operations are those of the matrix products alone, a multiplication and an addition each
    counting one; activations, norms and softmax come on top and are not counted.
    """

    path: float  # floating-point operations
    competition: float
    optimiser: float  # bytes

    @property
    def operations(self) -> float:
        """Floating-point operations of the whole step."""
        return self.path + self.competition


def count_work(
    graph: TokenGraph, config: ModelConfig, tokens: Array, positions: int | None = None
) -> Work:
    """Count operations and bytes of a training step with the exact softmax.

    At a position whose source is u, K(u) columns compete (``shared``: outdegree(u) + 1, with the
    class of unseen targets; ``three_part``: V). A column costs 2d² forward, 2d² for the gradient of
    the signal, 2d² for that of the matrix; the edge of the path costs the same once more. The
    optimiser streams 44 bytes a parameter: AdamW reads weight, gradient, two moments and average
    and writes all but the gradient (9 × 4); before that the gradient is written and read for its
    norm (2 × 4).

    Parameters
    ----------
    tokens : integer array (B, n + 1)
        The sources are all but the last of each row.
    positions : int, optional
        Count for so many positions with this mix of sources (default: for these, B n).
    """
    sources = tokens[:, :-1]
    three_part = config.edges == "three_part"
    columns = graph.n_nodes if three_part else float((graph.out_degree[sources] + 1).mean())
    path = 6.0 * config.d_node**2 * (sources.size if positions is None else positions)
    parameters = config.n_parameters(graph.n_nodes, graph.n_edges)
    return Work(path, path * columns, 44.0 * parameters)
