"""The competition with the parts of edges kept apart, for many nodes with few positions at each.

Where the composed edges of a source outgrow a cache, composing them all costs more than it saves.
Then what a target hears is added up:

    by source     its axon, heard by all targets alike                      `hear_sources`
    by target     the dendrites of a chunk of targets, for all positions    `hear_targets`
    by position   softmax and loss                                          `judge_positions`
    by target     the way back through dendrites                            `learn_targets`
    by source     and through axons                                         `learn_sources`

Private edges are composed with a chunk's dendrites where many positions of a source share many of
them; the answers of others are found one by one.

Answers are found twice: once for the energies, and again once the softmax is known. That is cheaper
than to keep V d numbers for every position. If small probabilities are rounded, few targets of a
position remain, and those are found one by one (`minibrillm.kernels.kept`).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.judge import Case, Weights, judge, weigh_columns, weigh_position
from minibrillm.kernels.lanes import (
    ROWS,
    add_from_lanes,
    answer,
    begin,
    hear,
    scale_and_add_up,
    to_lanes,
)
from minibrillm.kernels.path import Parts
from minibrillm.kernels.products import (
    add,
    add_dots,
    add_product,
    add_row,
    copy,
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
    team: Array  # (T,) -1: positions of many sources; else all positions of one, its private
    team_start: Array  # (T + 1,)  edges composed with the dendrites
    signals: Array  # (M, d + 1), the last number 1
    common: Array  # (M, d) what all targets hear alike: at first the encoding
    energy: Array  # (M, V); once judged, dloss/dE over E
    da: Array  # (BINS, M, d) what each bin sends back to the signals
    d_common: Array  # (BINS, M, d) and to ``common``
    d_signals: Array  # (M, d) found; or (0, d): losses only


class Room(NamedTuple):
    """Memory to work in, kept from call to call; each thread has a row of every array."""

    lanes: Array  # (threads, 2, (d + 1) d T) of a chunk: dendrites, and with private edges
    d_lanes: Array
    h: Array  # (threads, (ROWS + 1) d T) answers of a block of positions, or of what is kept
    columns: Array  # (threads, 2 V)


# --------------------------------------------------------------------------------------- by source


@inlined()
def _hear_source(weight: Parts, bias: Parts, x: Apart, g: int) -> None:
    u, first, last, d = x.source[g], x.start[g], x.start[g + 1], x.common.shape[1]
    for r in range(first, last):
        add(x.common[r], bias.source[u])
    add_product(x.signals[first:last, :d], weight.source[u], x.common[first:last])


@kernel(parallel=True)
def hear_sources(weight: Parts, bias: Parts, x: Apart) -> None:
    """What comes from the axons of all sources."""
    for g in prange(len(x.source)):
        _hear_source(weight, bias, x, np.int64(g))


@inlined()
def _learn_source(weight: Parts, d_weight: Parts, d_bias: Parts, x: Apart, g: int) -> None:
    u, first, last, d = x.source[g], x.start[g], x.start[g + 1], x.common.shape[1]
    da, d_common = x.d_signals[first:last], x.d_common[0, first:last]
    for b in range(BINS):
        add(da.reshape(-1), x.da[b, first:last].reshape(-1))
        if b > 0:
            add(d_common.reshape(-1), x.d_common[b, first:last].reshape(-1))
    for r in range(last - first):
        add(d_bias.source[u], d_common[r])
    add_dots(d_common, weight.source[u], da)
    add_product(x.signals[first:last, :d].T, d_common, d_weight.source[u])


@kernel(parallel=True)
def learn_sources(weight: Parts, d_weight: Parts, d_bias: Parts, x: Apart) -> None:
    """The way back of `hear_sources` (eq. 13); ``d_signals`` begins at 0."""
    for g in prange(len(x.source)):
        _learn_source(weight, d_weight, d_bias, x, np.int64(g))


# --------------------------------------------------------------------------------------- by target


@inlined()
def _own(x: Apart, u: int, low: int, high: int) -> tuple[int, int]:
    """First and last private edge of source u with a target in low … high - 1."""
    mine = x.targets[x.indptr[u] : x.indptr[u + 1]]
    return (
        x.indptr[u] + np.searchsorted(mine, low),
        x.indptr[u] + np.searchsorted(mine, high),
    )


@inlined()
def _compose(
    weight: Parts, bias: Parts, x: Apart, u: int, low: int, high: int, lanes: Array
) -> None:
    """Add the private edges of u to the dendrites of a chunk."""
    d, t = bias.private.shape[1], high - low
    begin_of, end = _own(x, u, low, high)
    for e in range(begin_of, end):
        at = x.targets[e] - low
        for i in range(d + 1):
            lane = lanes[i, at::t]
            own = weight.private[e, i] if i < d else bias.private[e]
            for o in range(d):
                lane[o] += own[o]


@inlined()
def _decompose(
    d_weight: Parts, d_bias: Parts, x: Apart, u: int, low: int, high: int, d_lanes: Array
) -> None:
    """The way back of `_compose`."""
    d, t = d_bias.private.shape[1], high - low
    begin_of, end = _own(x, u, low, high)
    for e in range(begin_of, end):
        at = x.targets[e] - low
        for i in range(d + 1):
            lane = d_lanes[i, at::t]
            own = d_weight.private[e, i] if i < d else d_bias.private[e]
            for o in range(d):
                own[o] += lane[o]


@inlined()
def _hear_private(
    weight: Parts, bias: Parts, x: Apart, first: int, last: int, low: int, high: int, h: Array,
    own: Array,
) -> None:  # fmt: skip
    """Add the answers of private edges, one by one, to those of their targets."""
    d, t, r = own.size, high - low, first
    while r < last:
        g = x.group[r]
        end, (begin_of, end_of) = min(last, x.start[g + 1]), _own(x, x.source[g], low, high)
        for e in range(begin_of, end_of):
            for i in range(r, end):
                copy(own, bias.private[e])
                add_row(x.signals[i, :d], weight.private[e], own, 0)
                lane = h[i - first, x.targets[e] - low :: t]
                for o in range(d):
                    lane[o] += own[o]
        r = end


@inlined()
def _learn_private(
    weight: Parts, d_weight: Parts, d_bias: Parts, x: Apart, first: int, last: int, low: int,
    high: int, h: Array, own: Array, da: Array,
) -> None:  # fmt: skip
    """The way back of `_hear_private`."""
    d, t, r = own.size, high - low, first
    while r < last:
        g = x.group[r]
        end, (begin_of, end_of) = min(last, x.start[g + 1]), _own(x, x.source[g], low, high)
        for e in range(begin_of, end_of):
            for i in range(r, end):
                lane = h[i - first, x.targets[e] - low :: t]
                for o in range(d):
                    own[o] = lane[o]
                edge = weight.private[e], d_weight.private[e], d_bias.private[e]
                learn_one(*edge, x.signals[i], own, da[i])
        r = end


@inlined()
def learn_one(
    weight: Array, d_weight: Array, d_bias: Array, a: Array, dh: Array, da: Array
) -> None:
    """The way back of one answer a W + b (eq. 13)."""
    add(d_bias, dh)
    for i in range(dh.size):
        x, total, row, d_row = a[i], da[i], weight[i], d_weight[i]
        for o in range(dh.size):
            total += dh[o] * row[o]
            d_row[o] += x * dh[o]
        da[i] = total


@inlined()
def _pre_activations(
    weight: Parts, bias: Parts, x: Apart, lanes: Array, own: Array, alone: bool, low: int,
    high: int, first: int, last: int, h: Array,
) -> None:  # fmt: skip
    """h (rows, d T) of the positions first … last - 1 and the targets low … high - 1 (eq. 4)."""
    d = x.common.shape[1]
    for r in range(last - first):
        begin(h[r], lanes[d], x.common[first + r])
    add_product(x.signals[first:last, :d], lanes[:d], h)
    if alone:
        _hear_private(weight, bias, x, first, last, low, high, h, own)


@inlined()
def _load(weight: Parts, bias: Parts, low: int, high: int, lanes: Array) -> None:
    d = bias.target.shape[1]
    to_lanes(weight.target[low:high], lanes[:d])
    to_lanes(bias.target[low:high].reshape(high - low, 1, d), lanes[d:])


@inlined()
def _hear_targets(weight: Parts, bias: Parts, x: Apart, room: Room, chunk: int, b: int) -> None:
    thread, v, d = numba.get_thread_id(), x.energy.shape[1], x.common.shape[1]
    for low in range(b * chunk, v, BINS * chunk):
        high = min(low + chunk, v)
        size = d * (high - low)
        lanes = room.lanes[thread, 0, : (d + 1) * size].reshape(d + 1, size)
        memory = room.h[thread, : (ROWS + 1) * size].reshape(ROWS + 1, size)
        _load(weight, bias, low, high, lanes)
        for k in range(len(x.team)):
            u, its = x.team[k], lanes
            if u >= 0:
                its = room.lanes[thread, 1, : (d + 1) * size].reshape(d + 1, size)
                copy(its.reshape(-1), lanes.reshape(-1))
                _compose(weight, bias, x, u, low, high, its)
            for first in range(x.team_start[k], x.team_start[k + 1], ROWS):
                last = min(first + ROWS, x.team_start[k + 1])
                h, own = memory[: last - first], memory[ROWS, :d]
                _pre_activations(weight, bias, x, its, own, u < 0, low, high, first, last, h)
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
    thread, v, d = numba.get_thread_id(), x.energy.shape[1], x.common.shape[1]
    x.da[b] = 0
    x.d_common[b] = 0
    for low in range(b * chunk, v, BINS * chunk):
        high = min(low + chunk, v)
        t, size = high - low, d * (high - low)
        lanes = room.lanes[thread, 0, : (d + 1) * size].reshape(d + 1, size)
        d_lanes = room.d_lanes[thread, 0, : (d + 1) * size].reshape(d + 1, size)
        memory = room.h[thread, : (ROWS + 1) * size].reshape(ROWS + 1, size)
        energy, y = room.columns[thread, :t], memory[ROWS]
        _load(weight, bias, low, high, lanes)
        d_lanes[:] = 0
        for k in range(len(x.team)):
            u, its, d_its = x.team[k], lanes, d_lanes
            if u >= 0:
                its = room.lanes[thread, 1, : (d + 1) * size].reshape(d + 1, size)
                d_its = room.d_lanes[thread, 1, : (d + 1) * size].reshape(d + 1, size)
                copy(its.reshape(-1), lanes.reshape(-1))
                _compose(weight, bias, x, u, low, high, its)
                d_its[:] = 0
            for first in range(x.team_start[k], x.team_start[k + 1], ROWS):
                last = min(first + ROWS, x.team_start[k + 1])
                h, own = memory[: last - first], y[:d]
                _pre_activations(weight, bias, x, its, own, u < 0, low, high, first, last, h)
                for r in range(last - first):
                    answer(h[r], y, energy)
                    scale = x.energy[first + r, low:high]
                    scale_and_add_up(h[r], scale, x.d_common[b, first + r])
                if u < 0:
                    given = weight, d_weight, d_bias, x, first, last, low, high
                    _learn_private(*given, h, own, x.da[b])
                add_dots(h, its[:d], x.da[b, first:last])
                add_product(x.signals[first:last].T, h, d_its)
            if u >= 0:
                _decompose(d_weight, d_bias, x, u, low, high, d_its)
                add(d_lanes.reshape(-1), d_its.reshape(-1))
        add_from_lanes(d_lanes[:d], d_weight.target[low:high])
        add_from_lanes(d_lanes[d:], d_bias.target[low:high].reshape(t, 1, d))


@kernel(parallel=True)
def learn_targets(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, x: Apart, room: Room, chunk: int
) -> None:
    """The way back of `hear_targets` (eq. 11-13)."""
    for b in prange(BINS):
        _learn_targets(weight, bias, d_weight, d_bias, x, room, chunk, np.int64(b))


# ------------------------------------------------------------------------------------- by position


@inlined()
def _judge_position(x: Apart, case: Case, weights: Weights, room: Room, r: int) -> None:
    v = x.energy.shape[1]
    columns = room.columns[numba.get_thread_id()]
    logs, scale = columns[:v], columns[v : 2 * v]
    weigh_columns(weights, x.source[x.group[r]], 0, logs)
    weigh_position(case, r, logs)
    judge(case, r, x.energy[r], logs, scale)
    copy(x.energy[r], scale)


@kernel(parallel=True)
def judge_positions(x: Apart, case: Case, weights: Weights, room: Room) -> None:
    """Losses of all positions; their energies become dloss/dE over E (eq. 8-11)."""
    for r in prange(len(x.signals)):
        _judge_position(x, case, weights, room, np.int64(r))
