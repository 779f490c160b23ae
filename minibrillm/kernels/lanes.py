"""A lane for each target: what loops over targets that lie side by side.

Where K targets compete, the numbers of each are not kept together, (K, d), but those of a kind
are: (d, K). Every loop then runs along K lanes, long, contiguous and without a branch, and the
compiler makes vector instructions of it. A weight (K, d, d) becomes (d, d K), so that the answers of
all targets to a signal are one product, a (d,) times (d, d K).
"""

from __future__ import annotations

import numpy as np

from minibrillm.kernels.gelu import gelu, gelu_and_product
from minibrillm.kernels.jit import inlined
from minibrillm.kernels.products import add

Array = np.ndarray

ROWS = (
    24  # positions in a block: a multiple of three rows, four terms, and their answers fit a cache
)


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
def add_common(h: Array, common: Array, k: int) -> None:
    """What all K lanes hear alike, (d,), is added to h (d K,)."""
    for o in range(common.size):
        here, x = h[o * k : (o + 1) * k], common[o]
        for j in range(here.size):
            here[j] += x


@inlined()
def add_sums(h: Array, sums: Array, k: int) -> None:
    """The way back of `add_common`: sums (d,) over the lanes of h (d K,)."""
    for o in range(sums.size):
        total, here = h.dtype.type(0), h[o * k : (o + 1) * k]
        for j in range(here.size):
            total += here[j]
        sums[o] += total


@inlined()
def _lengths(y: Array, energy: Array) -> None:
    """Energies (K,) of answers y (d K,) (eq. 5)."""
    k = energy.size
    energy[:] = 0
    for low in range(0, y.size, k):
        here = y[low : low + k]
        for j in range(k):
            energy[j] += here[j] * here[j]
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
def scale_lanes(h: Array, scale: Array, d_bias: Array) -> None:
    """gelu gelu' (d K,) becomes dh, times dloss/dE over E (K,); adds it to d_bias (eq. 11-12)."""
    k = scale.size
    for low in range(0, h.size, k):
        here = h[low : low + k]
        for j in range(k):
            here[j] *= scale[j]
    add(d_bias, h)
