"""Does a training fit into memory?"""

from __future__ import annotations

from minibrillm.checks import UserError
from minibrillm.config import ModelConfig


def training_memory(config: ModelConfig, n_nodes: int, n_edges: int) -> int:
    """Bytes that training takes in float32: six times the V nodes' and E edges' parameters.

    These are the weights, their gradients, two moments, the average, and the best of it so far.
    """
    return 6 * 4 * config.n_parameters(n_nodes, n_edges)


def check_memory(config: ModelConfig, n_nodes: int, n_edges: int, free: int) -> None:
    """Refuse training that needs more than ``free`` bytes, and name a size that fits."""
    need = training_memory(config, n_nodes, n_edges)
    if need <= free:
        return
    advice = "a larger min_count leaves fewer edges"
    for d in (*range((config.d_node - 1) // 16 * 16, 0, -16), 8, 4):
        smaller = training_memory(config.replace(d_node=d), n_nodes, n_edges)
        if d < config.d_node and smaller <= free:
            advice = f"a new run with d_node={d} needs about {smaller / 1e9:.1f} GB, and {advice}"
            break
    raise UserError(
        f"training needs about {need / 1e9:.1f} GB of memory, {max(free, 0) / 1e9:.1f} GB are "
        f"free; {advice}"
    )
