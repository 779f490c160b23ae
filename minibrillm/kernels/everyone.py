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
def _multiply(signals: Array, w: Array, products: Array, d: int) -> None:
    """a (d,) w (d, d) in the first row of ``products``; flat arrays (d²,).

    ``signals`` holds each number of a d times.

    For one signal d is short, and a loop over it costs more to begin than to run. So all d²
    products are found in one loop, and the upper half of their rows is added to the lower one,
    until one row is left.
    """
    for j in range(w.size):
        products[j] = signals[j] * w[j]
    rows = d
    while rows > 1:
        half = rows // 2
        upper = products[(rows - half) * d : rows * d]
        for j in range(upper.size):
            products[j] += upper[j]
        rows -= half


@inlined()
def _energies_at(weight: Parts, bias: Parts, x: Everyone, r: int) -> None:
    a, u, energy, three_part = x.signals[r], x.source[r], x.energy[r], len(weight.source) > 0
    common, h = x.encoding[r].copy(), np.empty((energy.size, a.size), a.dtype)
    at = u if three_part else 0
    mine = x.targets[x.indptr[u] : x.indptr[u + 1]]
    if three_part:
        add(common, bias.source[at])
        add_row(a, weight.source[at], common, 0)
    signals, flat = np.repeat(a, a.size), weight.target.reshape(-1)
    size, products = signals.size, np.empty_like(signals)
    for v in range(energy.size if three_part else 1):  # or the one that all others share
        its, row = bias.target[v], h[v]
        _multiply(signals, flat[v * size : (v + 1) * size], products, a.size)
        for o in range(row.size):
            row[o] = products[o] + common[o] + its[o]
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
