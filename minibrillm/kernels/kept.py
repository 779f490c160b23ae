"""The way back from the few targets that rounding keeps, each found by itself (eq. 11b).

What `minibrillm.kernels.apart` does for all targets of a chunk. What is kept is listed first: in a
loop without branches Numba need not count references to slices of arrays, which would cost more
than the work.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from minibrillm.kernels.apart import Apart, Room, learn_one
from minibrillm.kernels.gelu import gelu_product
from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.path import Parts
from minibrillm.kernels.products import add, add_row, copy
from minibrillm.kernels.sort import BINS

Array = np.ndarray


@inlined()
def _find_kept(x: Apart, r: int, b: int, chunk: int, kept: Array) -> tuple[int, int]:
    """Targets of bin b that position r keeps: n of them, and m private edges that lead to some.

    ``kept`` (4, V): targets, and the numbers 0 … n - 1 of their answers; private edges, and the
    numbers of theirs.
    """
    u, v, n, m = x.source[x.group[r]], x.energy.shape[1], 0, 0
    e, end, energy, targets = x.indptr[u], x.indptr[u + 1], x.energy[r], x.targets
    for low in range(b * chunk, v, BINS * chunk):
        for target in range(low, min(low + chunk, v)):
            if energy[target] != 0:
                while e < end and targets[e] < target:
                    e += 1
                if e < end and targets[e] == target:
                    kept[2, m], kept[3, m] = e, n
                    m += 1
                kept[0, n], kept[1, n] = target, n
                n += 1
    return n, m


@inlined()
def _hear(weight: Array, bias: Array, a: Array, kept: Array, h: Array) -> None:
    """Add what these parts say to a signal to the answers with these numbers (eq. 4)."""
    for k in range(kept.shape[1]):
        part, number = kept[0, k], kept[1, k]
        add(h[number], bias[part])
        add_row(a, weight[part], h[number], 0)


@inlined()
def _learn(
    weight: Array, d_weight: Array, d_bias: Array, a: Array, kept: Array, dh: Array, da: Array
) -> None:
    """The way back of `_hear` (eq. 13)."""
    for k in range(kept.shape[1]):
        part = kept[0, k]
        learn_one(weight[part], d_weight[part], d_bias[part], a, dh[kept[1, k]], da)


@inlined()
def _scale(h: Array, scale: Array, kept: Array, d_common: Array) -> None:
    """gelu gelu' becomes dh (eq. 11-12), and is added up."""
    for k in range(kept.size):
        dh, factor = h[k], scale[kept[k]]
        for o in range(dh.size):
            dh[o] *= factor
        add(d_common, dh)


@inlined()
def _learn_kept(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int,
    b: int,
) -> None:  # fmt: skip
    d = x.common.shape[1]
    kept = np.empty((4, x.energy.shape[1]), np.int64)
    memory = room.h[numba.get_thread_id()]
    h = memory[: memory.size // d * d].reshape(-1, d)
    for r in range(len(x.energy)):
        n, m = _find_kept(x, r, b, chunk, kept)
        a, da, d_common = x.signals[r], x.da[b, r], x.d_common[b, r]
        da[:], d_common[:] = 0, 0
        for k in range(n):
            copy(h[k], x.common[r])
        _hear(weight.target, bias.target, a[:d], kept[:2, :n], h)
        _hear(weight.private, bias.private, a[:d], kept[2:, :m], h)
        gelu_product(h[:n].reshape(-1))
        _scale(h, x.energy[r], kept[0, :n], d_common)
        _learn(weight.target, d_weight.target, d_bias.target, a, kept[:2, :n], h, da)
        _learn(weight.private, d_weight.private, d_bias.private, a, kept[2:, :m], h, da)


@kernel(parallel=True)
def learn_kept(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int
) -> None:
    """As `minibrillm.kernels.apart.learn_targets`."""
    for b in prange(BINS):
        _learn_kept(weight, bias, d_weight, d_bias, x, room, chunk, np.int64(b))
