"""The energies of all nodes, as generation asks for them: one position, every target."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from minibrillm.kernels.gelu import gelu
from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.path import Parts
from minibrillm.kernels.products import add, add_multiple, add_row, copy, dot

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
def _multiply(a: Array, repeated: Array, w: Array, products: Array) -> None:
    """a (d,) w (d, d) in the first d of ``products``; ``repeated`` holds each number of a d times.

    For one signal d is short, and a loop over it costs more to begin than to run. So the rows of w
    are taken as four blocks, added up in one loop; the lower half of what is left is added to the
    upper one, until one row is left.
    """
    d = a.size
    rows = d // 4
    size = rows * d
    a0, a1 = repeated[:size], repeated[size : 2 * size]
    a2, a3 = repeated[2 * size : 3 * size], repeated[3 * size : 4 * size]
    w0, w1 = w[:size], w[size : 2 * size]
    w2, w3 = w[2 * size : 3 * size], w[3 * size : 4 * size]
    products[:d] = 0  # where d is below 4 there are no blocks
    for j in range(size):
        products[j] = a0[j] * w0[j] + a1[j] * w1[j] + a2[j] * w2[j] + a3[j] * w3[j]
    for k in range(4 * rows, d):
        add_multiple(products[:d], a[k], w[k * d : (k + 1) * d])
    while rows > 1:
        half = rows // 2
        add(products[: half * d], products[(rows - half) * d : rows * d])
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
    repeated, flat = np.repeat(a, a.size), weight.target.reshape(-1)
    size, products = repeated.size, np.empty_like(repeated)
    for v in range(energy.size if three_part else 1):  # or the one that all others share
        its, row = bias.target[v], h[v]
        _multiply(a, repeated, flat[v * size : (v + 1) * size], products)
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
