"""The energies of all nodes, as generation asks for them: one position, every target."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from minibrillm.kernels.gelu import gelu
from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.path import Parts
from minibrillm.kernels.products import add, add_row, copy, dot

Array = np.ndarray


class Everyone(NamedTuple):
    """M positions."""

    indptr: Array  # private edges of the graph, by source
    targets: Array
    source: Array  # (M,)
    signals: Array  # (M, d)
    encoding: Array  # (M, d)
    energy: Array  # (M, V) found


@inlined()
def _energies_at(weight: Parts, bias: Parts, x: Everyone, r: int) -> None:
    a, u, energy, three_part = x.signals[r], x.source[r], x.energy[r], len(weight.source) > 0
    common, h = x.encoding[r].copy(), np.empty((energy.size, a.size), a.dtype)
    at = u if three_part else 0
    mine = x.targets[x.indptr[u] : x.indptr[u + 1]]
    if three_part:
        add(common, bias.source[at])
        add_row(a, weight.source[at], common, 0)
    for v in range(energy.size if three_part else 1):  # or the one that all others share
        its, row = bias.target[v], h[v]
        for o in range(row.size):
            row[o] = common[o] + its[o]
        add_row(a, weight.target[v], h[v], 0)
    shared = h[0].copy()
    for v in range(0 if three_part else energy.size):
        copy(h[v], shared)
    for e in range(mine.size):
        answer, private = h[mine[e]], x.indptr[u] + e
        if not three_part:
            copy(answer, common)
        add(answer, bias.private[private])
        add_row(a, weight.private[private], answer, 0)
    gelu(h.reshape(-1))
    for v in range(energy.size):
        energy[v] = np.sqrt(dot(h[v], h[v]))


@kernel()
def energies_at_one(weight: Parts, bias: Parts, x: Everyone) -> None:
    """One position: nothing to run in parallel, nor to compile for that."""
    _energies_at(weight, bias, x, 0)


@kernel(parallel=True)
def energies_at_all(weight: Parts, bias: Parts, x: Everyone) -> None:
    """Every position (eq. 4-5)."""
    for r in prange(len(x.source)):
        _energies_at(weight, bias, x, np.int64(r))
