"""The layout of the released code, vectorised: one position after the other.

At every position the matrices of all candidates are gathered, and the whole past is summed again.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from minibrillm.rivals.energy import nll_of
from minibrillm.rivals.pytorch import Tensor, torch

Twin: TypeAlias = Any  # of `minibrillm.rivals.twin`, which calls this file


def per_step_loss(twin: Twin, u: Tensor, v: Tensor, candidates: Tensor | None) -> Tensor:
    """Mean −log p of the edges u→v (B, n), nats, all sequences at once; candidates (B, n, C)."""
    n = u.shape[1]
    table = twin.edge_table(torch.arange(twin.n_nodes))
    encoding = twin.encoding(n, twin.config.first_position)
    widest = int(twin.degree[u].max()) + 1 if twin.shared else twin.n_nodes
    a = twin.start(u[:, 0])
    past = [a] if twin.config.memory == "leaky" else []  # the others do not remember r_0
    everyone = torch.arange(len(a))
    nll = []
    for i in range(n):
        source, truth = u[:, i], v[:, i]
        if i > 0:
            a = resum(twin, torch.stack(past, dim=1))
        if candidates is None:
            column = twin.column(source, truth)
            targets = twin.columns[source, :widest]  # (B, K)
            log_weight = twin.log_weight[source, :widest]
        else:
            column, targets = torch.zeros_like(truth), candidates[:, i]
            log_weight = twin.log_prior(source[:, None], targets)
        weight, bias = twin.edges(table, source[:, None], targets)
        # (B, 1, 1, d) @ (B, K, d, d) -> (B, K, 1, d)
        h = (a[:, None, None] @ weight)[:, :, 0] + bias + encoding[i]
        energies = twin.energy(h.flatten(0, 1)).view(h.shape[:2])
        nll.append(nll_of(energies, log_weight, column, twin.log_prior(source, truth)))
        past.append(twin.signal(h[everyone, column]))
    return torch.stack(nll).mean()


def resum(twin: Twin, past: Tensor) -> Tensor:
    """a_i from all that is remembered, weighted and summed anew: (..., T, d) -> (..., d).

    Equation 7 unrolled. T is i, or i + 1 where r_0 is remembered too (leaky).
    """
    n_past = past.shape[-2]
    if twin.config.memory == "chain":
        return past[..., -1, :]
    if twin.config.memory == "position":
        return torch.softmax(twin.position_logits[:n_past], dim=0) @ past
    age = torch.arange(n_past - 1, -1, -1, dtype=twin.dtype)[:, None]
    weights = torch.sigmoid(twin.decay_logit) ** age  # (T, d)
    return (weights * past).sum(dim=-2) / weights.sum(dim=0)
