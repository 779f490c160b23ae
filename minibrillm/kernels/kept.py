"""The way back from the few targets that rounding keeps, each found by itself (eq. 11b).

What `minibrillm.kernels.apart` does for all targets of a chunk. A loop that makes slices of arrays
has no branch here: what is kept is listed first, else counting references would cost more than the
work.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from minibrillm.kernels.apart import Apart, Room, learn_one
from minibrillm.kernels.gelu import gelu_and_product
from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.path import Parts
from minibrillm.kernels.products import add, add_row, copy
from minibrillm.kernels.sort import BINS

Array = np.ndarray


@inlined()
def _find_kept(x: Apart, r: int, b: int, chunk: int, kept: Array) -> tuple[int, int]:
    """Targets of bin b that position r keeps, (n,) in kept[0]; those to which a private edge leads
    have its number in kept[1], (m,), and their place among the n in kept[2]."""
    u, v, n, m = x.source[x.group[r]], x.energy.shape[1], 0, 0
    e, end, energy = x.indptr[u], x.indptr[u + 1], x.energy[r]
    for low in range(b * chunk, v, BINS * chunk):
        for target in range(low, min(low + chunk, v)):
            if energy[target] != 0:
                while e < end and x.targets[e] < target:
                    e += 1
                if e < end and x.targets[e] == target:
                    kept[1, m], kept[2, m] = e, n
                    m += 1
                kept[0, n] = target
                n += 1
    return n, m


@inlined()
def _learn_kept(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int,
    b: int,
) -> None:  # fmt: skip
    d, thread = x.common.shape[1], numba.get_thread_id()
    kept = np.empty((3, x.energy.shape[1]), np.int64)
    half = room.h.shape[1] // 2
    answers, y = room.h[thread, : half // d * d].reshape(-1, d), room.h[thread, half:]
    for r in range(len(x.energy)):
        n, m = _find_kept(x, r, b, chunk, kept)
        a, da, common, d_common = x.signals[r], x.da[b, r], x.common[r], x.d_common[b, r]
        da[:], d_common[:] = 0, 0
        for k in range(n):
            h = answers[k]
            copy(h, common)
            add(h, bias.target[kept[0, k]])
            add_row(a[:d], weight.target[kept[0, k]], h, 0)
        for k in range(m):
            h = answers[kept[2, k]]
            add(h, bias.private[kept[1, k]])
            add_row(a[:d], weight.private[kept[1, k]], h, 0)
        gelu_and_product(answers[:n].reshape(-1), y)
        for k in range(n):
            h, v = answers[k], kept[0, k]
            for o in range(d):
                h[o] *= x.energy[r, v]
            add(d_common, h)
            learn_one(weight.target[v], d_weight.target[v], d_bias.target[v], a, h, da)
        for k in range(m):
            h, e = answers[kept[2, k]], kept[1, k]
            learn_one(weight.private[e], d_weight.private[e], d_bias.private[e], a, h, da)


@kernel(parallel=True)
def learn_kept(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int
) -> None:
    """As `minibrillm.kernels.apart.learn_targets`."""
    for b in prange(BINS):
        _learn_kept(weight, bias, d_weight, d_bias, x, room, chunk, np.int64(b))
