"""The competition with the parts of edges kept apart, for many nodes with few positions at each.

Where the composed edges of a source outgrow a cache, composing them costs more than it saves. Then
what a target hears is added up of three answers:

    by source     its axon, heard by all targets alike, and its private edges       `hear_sources`
    by target     the dendrites of a chunk of targets, for all positions            `hear_targets`
    by position   softmax and loss                                                  `judge_positions`
    by target     the way back through dendrites                                    `learn_targets`
    by source     and through axons and private edges                               `learn_sources`

Answers to dendrites are found twice: once for the energies, and again once the softmax is known.
That is cheaper than to keep V d numbers for every position. If small probabilities are rounded, few
targets of a position remain, and those are found one by one (`learn_kept`).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from minibrillm.kernels.gelu import gelu_and_product
from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.judge import Case, Weights, judge, weigh_columns, weigh_position
from minibrillm.kernels.lanes import (
    ROWS,
    add_common,
    add_from_lanes,
    add_sums,
    answer,
    hear,
    scale_lanes,
    to_lanes,
)
from minibrillm.kernels.path import Parts
from minibrillm.kernels.products import (
    add,
    add_dots,
    add_multiple,
    add_product,
    add_row,
    add_row_dots,
)
from minibrillm.kernels.sort import BINS

Array = np.ndarray

CHUNK = 64  # targets side by side, at most


class Apart(NamedTuple):
    """M positions sorted by source, and what is found of them on the way."""

    indptr: Array  # private edges of the graph, by source
    targets: Array
    source: Array  # (G,)
    start: Array  # (G + 1,) first position of each source
    group: Array  # (M,) number of each position's source
    own_start: Array  # (G + 1,) where the answers of each source's private edges begin
    signals: Array  # (M, d)
    common: Array  # (M, d) what all targets hear alike: at first the encoding
    own: (
        Array  # answers of private edges: (edges, positions, d) of each source, one after the other
    )
    d_own: Array
    energy: Array  # (M, V); once judged, dloss/dE over E
    da: Array  # (BINS, M, d) what each bin sends back to the signals
    d_common: Array  # (BINS, M, d) and to ``common``
    d_signals: Array  # (M, d) found; or (0, d): losses only


class Room(NamedTuple):
    """Memory to work in, kept from call to call; each thread has a row of every array."""

    lanes: Array  # (threads, d + 1, d T) dendrites of a chunk of targets, and their biases
    d_lanes: Array
    h: Array  # (threads, ROWS, d T)
    y: Array  # (threads, d T)
    columns: Array  # (threads, 2, V)


# --------------------------------------------------------------------------------------- by source


@inlined()
def _hear_source(weight: Parts, bias: Parts, x: Apart, g: int) -> None:
    u, first, last = x.source[g], x.start[g], x.start[g + 1]
    a, common, n, d = x.signals[first:last], x.common[first:last], last - first, x.signals.shape[1]
    for r in range(n):
        add(common[r], bias.source[u])
    add_product(a, weight.source[u], common)
    low, high = x.indptr[u], x.indptr[u + 1]
    own = x.own[x.own_start[g] : x.own_start[g + 1]].reshape(high - low, n, d)
    for e in range(high - low):
        for r in range(n):
            own[e, r] = bias.private[low + e]
        add_product(a, weight.private[low + e], own[e])


@kernel(parallel=True)
def hear_sources(weight: Parts, bias: Parts, x: Apart) -> None:
    """What comes from the sources of all positions: axons and private edges."""
    for g in prange(len(x.source)):
        _hear_source(weight, bias, x, np.int64(g))


@inlined()
def _learn_source(weight: Parts, d_weight: Parts, d_bias: Parts, x: Apart, g: int) -> None:
    u, first, last = x.source[g], x.start[g], x.start[g + 1]
    n, d, d_common = last - first, x.signals.shape[1], x.d_common[0, first:last]
    a, da = x.signals[first:last], x.d_signals[first:last]
    da[:] = x.da[0, first:last]
    for b in range(1, BINS):
        add(da.reshape(-1), x.da[b, first:last].reshape(-1))
        add(d_common.reshape(-1), x.d_common[b, first:last].reshape(-1))
    for r in range(n):
        add(d_bias.source[u], d_common[r])
    add_dots(d_common, weight.source[u], da)
    add_product(a.T, d_common, d_weight.source[u])
    low, high = x.indptr[u], x.indptr[u + 1]
    d_own = x.d_own[x.own_start[g] : x.own_start[g + 1]].reshape(high - low, n, d)
    for e in range(high - low):
        for r in range(n):
            add(d_bias.private[low + e], d_own[e, r])
        add_dots(d_own[e], weight.private[low + e], da)
        add_product(a.T, d_own[e], d_weight.private[low + e])


@kernel(parallel=True)
def learn_sources(weight: Parts, d_weight: Parts, d_bias: Parts, x: Apart) -> None:
    """The way back of `hear_sources` (eq. 13)."""
    for g in prange(len(x.source)):
        _learn_source(weight, d_weight, d_bias, x, np.int64(g))


# --------------------------------------------------------------------------------------- by target


@inlined()
def _exchange(x: Apart, r: int, low: int, high: int, h: Array, there: bool) -> None:
    """Add answers of private edges to those of their targets low … high - 1; or bring gradients
    back."""
    g, d, t = x.group[r], x.signals.shape[1], high - low
    u, n = x.source[g], x.start[g + 1] - x.start[g]
    mine = x.targets[x.indptr[u] : x.indptr[u + 1]]
    own = x.own if there else x.d_own
    for e in range(np.searchsorted(mine, low), np.searchsorted(mine, high)):
        at = x.own_start[g] + (e * n + r - x.start[g]) * d
        here, lane = own[at : at + d], mine[e] - low
        for o in range(d):
            if there:
                h[o * t + lane] += here[o]
            else:
                here[o] = h[o * t + lane]


@inlined()
def _pre_activations(
    x: Apart, lanes: Array, low: int, high: int, first: int, last: int, h: Array
) -> None:
    """h (rows, d T) of the positions first … last - 1 and the targets low … high - 1 (eq. 4)."""
    d = x.signals.shape[1]
    for r in range(last - first):
        h[r] = lanes[d]
        add_common(h[r], x.common[first + r], high - low)
    add_product(x.signals[first:last], lanes[:d], h)
    for r in range(last - first):
        _exchange(x, first + r, low, high, h[r], True)


@inlined()
def _load_lanes(weight: Parts, bias: Parts, low: int, high: int, lanes: Array) -> None:
    d = bias.target.shape[1]
    to_lanes(weight.target[low:high], lanes[:d])
    to_lanes(bias.target[low:high].reshape(high - low, 1, d), lanes[d:])


@inlined()
def _hear_targets(weight: Parts, bias: Parts, x: Apart, room: Room, chunk: int, b: int) -> None:
    thread, (n_positions, v), d = numba.get_thread_id(), x.energy.shape, x.signals.shape[1]
    for low in range(b * chunk, v, BINS * chunk):
        high = min(low + chunk, v)
        size = d * (high - low)
        lanes = room.lanes[thread, : (d + 1) * size].reshape(d + 1, size)
        memory = room.h[thread, : ROWS * size].reshape(ROWS, size)
        _load_lanes(weight, bias, low, high, lanes)
        for first in range(0, n_positions, ROWS):
            last = min(first + ROWS, n_positions)
            h = memory[: last - first]
            _pre_activations(x, lanes, low, high, first, last, h)
            for r in range(last - first):
                hear(h[r], x.energy[first + r, low:high])


@kernel(parallel=True)
def hear_targets(weight: Parts, bias: Parts, x: Apart, room: Room, chunk: int) -> None:
    """Energies of all targets, a bin of chunks at a time (eq. 4-5)."""
    for b in prange(BINS):
        _hear_targets(weight, bias, x, room, chunk, np.int64(b))


@inlined()
def _learn_targets(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int,
    b: int,
) -> None:  # fmt: skip
    thread, (n_positions, v), d = numba.get_thread_id(), x.energy.shape, x.signals.shape[1]
    x.da[b] = 0
    x.d_common[b] = 0
    for low in range(b * chunk, v, BINS * chunk):
        high = min(low + chunk, v)
        t, size = high - low, d * (high - low)
        lanes = room.lanes[thread, : (d + 1) * size].reshape(d + 1, size)
        d_lanes = room.d_lanes[thread, : (d + 1) * size].reshape(d + 1, size)
        memory, y = room.h[thread, : ROWS * size].reshape(ROWS, size), room.y[thread, :size]
        energy = room.columns[thread, 0, :t]
        _load_lanes(weight, bias, low, high, lanes)
        d_lanes[:] = 0
        for first in range(0, n_positions, ROWS):
            last = min(first + ROWS, n_positions)
            h = memory[: last - first]
            _pre_activations(x, lanes, low, high, first, last, h)
            for r in range(last - first):
                answer(h[r], y, energy)
                scale_lanes(h[r], x.energy[first + r, low:high], d_lanes[d])
                add_sums(h[r], x.d_common[b, first + r], t)
                _exchange(x, first + r, low, high, h[r], False)
            add_dots(h, lanes[:d], x.da[b, first:last])
            add_product(x.signals[first:last].T, h, d_lanes[:d])
        add_from_lanes(d_lanes[:d], d_weight.target[low:high])
        add_from_lanes(d_lanes[d:], d_bias.target[low:high].reshape(t, 1, d))


@kernel(parallel=True)
def learn_targets(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int
) -> None:
    """The way back of `hear_targets` (eq. 11-13)."""
    for b in prange(BINS):
        _learn_targets(weight, bias, d_weight, d_bias, x, room, chunk, np.int64(b))


# -------------------------------------------------------------------------- the few that are kept


@inlined()
def _learn_kept(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int,
    b: int,
) -> None:  # fmt: skip
    (n_positions, v), d, thread = x.energy.shape, x.signals.shape[1], numba.get_thread_id()
    h, y = room.h[thread, :d], room.y[thread, :d]
    x.da[b] = 0
    x.d_common[b] = 0
    for low in range(b * chunk, v, BINS * chunk):
        high = min(low + chunk, v)
        for r in range(n_positions):
            a, g, scale = x.signals[r], x.group[r], x.energy[r, low:high]
            u, n = x.source[g], x.start[g + 1] - x.start[g]
            mine = x.targets[x.indptr[u] : x.indptr[u + 1]]
            for t in range(high - low):
                if scale[t] == 0:
                    continue
                target = low + t
                e = np.searchsorted(mine, target)
                at = x.own_start[g] + (e * n + r - x.start[g]) * d
                h[:] = x.common[r]
                add(h, bias.target[target])
                add_row(a, weight.target[target], h, 0)
                if e < mine.size and mine[e] == target:
                    add(h, x.own[at : at + d])
                gelu_and_product(h, y)
                for o in range(d):
                    h[o] *= scale[t]
                if e < mine.size and mine[e] == target:
                    x.d_own[at : at + d] = h
                add(x.d_common[b, r], h)
                add(d_bias.target[target], h)
                add_row_dots(h, weight.target[target], x.da[b, r], 0)
                for i in range(d):
                    add_multiple(d_weight.target[target, i], a[i], h)


@kernel(parallel=True)
def learn_kept(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int
) -> None:
    """As `learn_targets`, of the targets that rounding keeps; ``d_own`` begins at 0."""
    for b in prange(BINS):
        _learn_kept(weight, bias, d_weight, d_bias, x, room, chunk, np.int64(b))


# ------------------------------------------------------------------------------------- by position


@inlined()
def _judge_position(x: Apart, case: Case, weights: Weights, room: Room, r: int) -> None:
    columns = room.columns[numba.get_thread_id()]
    logs, scale = columns[0], columns[1]
    weigh_columns(weights, x.source[x.group[r]], 0, logs)
    weigh_position(case, r, logs)
    judge(case, r, x.energy[r], logs, scale)
    x.energy[r] = scale


@kernel(parallel=True)
def judge_positions(x: Apart, case: Case, weights: Weights, room: Room) -> None:
    """Losses of all positions; their energies become dloss/dE over E (eq. 8-11)."""
    for r in prange(len(x.signals)):
        _judge_position(x, case, weights, room, np.int64(r))
