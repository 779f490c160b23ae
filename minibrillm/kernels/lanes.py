"""A lane for each target: what loops over targets that lie side by side.

Where K targets compete, the numbers of each are not kept together, (K, d), but those of a kind
are: (d, K). Every loop then runs along K lanes, long, contiguous and without a branch, and the
compiler makes vector instructions of it. Weights (K, d, d) become one matrix (d, d K), so that the
answers of all targets to a signal are one product, a (d,) times (d, d K).
"""

from __future__ import annotations

import numpy as np

from minibrillm.kernels.gelu import gelu, gelu_and_product
from minibrillm.kernels.jit import inlined
from minibrillm.kernels.products import copy

Array = np.ndarray

ROWS = 24  # positions in a block: threes and fours, and their answers fit a cache


@inlined()
def to_lanes(edges: Array, lanes: Array) -> None:
    """(K, r, d) -> (r, d K)"""
    k, n_rows, d = edges.shape
    for i in range(n_rows):
        for e in range(k):
            one = edges[e, i]
            for o in range(d):
                lanes[i, o * k + e] = one[o]


@inlined()
def add_from_lanes(lanes: Array, edges: Array) -> None:
    """The way back of `to_lanes`, for gradients: adds to what is there."""
    k, n_rows, d = edges.shape
    for i in range(n_rows):
        for e in range(k):
            one = edges[e, i]
            for o in range(d):
                one[o] += lanes[i, o * k + e]


@inlined()
def begin(h: Array, bias: Array, common: Array) -> None:
    """h (d K,) = the biases (d K,) + what all K lanes hear alike (d,), if anything."""
    if common.size == 0:
        copy(h, bias)
        return
    k = h.size // common.size
    for o in range(common.size):
        here, its, x = h[o * k : (o + 1) * k], bias[o * k : (o + 1) * k], common[o]
        for j in range(k):
            here[j] = its[j] + x


@inlined()
def _lengths(y: Array, energy: Array) -> None:
    """Energies (K,) of answers y (d K,), four numbers of each at a time (eq. 5)."""
    k, low = energy.size, 0
    energy[:] = 0
    while low + 4 * k <= y.size:
        y0, y1 = y[low : low + k], y[low + k : low + 2 * k]
        y2, y3 = y[low + 2 * k : low + 3 * k], y[low + 3 * k : low + 4 * k]
        for j in range(k):
            energy[j] += y0[j] * y0[j] + y1[j] * y1[j] + y2[j] * y2[j] + y3[j] * y3[j]
        low += 4 * k
    while low < y.size:
        rest = y[low : low + k]
        for j in range(k):
            energy[j] += rest[j] * rest[j]
        low += k
    for j in range(k):
        energy[j] = np.sqrt(energy[j])


@inlined()
def hear(h: Array, energy: Array) -> None:
    """Energies (K,) of pre-activations h (d K,), which are lost (eq. 4-5)."""
    gelu(h)
    _lengths(h, energy)


@inlined()
def answer(h: Array, y: Array, energy: Array) -> None:
    """Energies (K,) of pre-activations h (d K,), which become gelu gelu' (eq. 4-5, 12)."""
    gelu_and_product(h, y)
    _lengths(y, energy)


@inlined()
def scale_lanes(h: Array, scale: Array) -> None:
    """gelu gelu' (d K,) becomes dh, times dloss/dE over E (K,) (eq. 11-12)."""
    k = scale.size
    for low in range(0, h.size, k):
        here = h[low : low + k]
        for j in range(k):
            here[j] *= scale[j]


@inlined()
def scale_and_add_up(h: Array, scale: Array, sums: Array) -> None:
    """As `scale_lanes`; adds the sums over all lanes to ``sums`` (d,): the way back of `begin`."""
    k = scale.size
    for o in range(sums.size):
        total, here = h.dtype.type(0), h[o * k : (o + 1) * k]
        for j in range(k):
            x = here[j] * scale[j]
            here[j] = x
            total += x
        sums[o] += total
