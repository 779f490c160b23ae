"""The competition, source by source: its edges are composed once and serve all its positions.

This is how it goes where few nodes compete, or many positions stand at each. Sources do not depend
on each other, so bins of them run in parallel.

An *edge* here is a matrix of d + 1 rows: the weight, and last the bias; a *signal* has d + 1
numbers, the last one 1. With a lane for each of K targets an edge is (d + 1, d K).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.judge import Case, Weights, judge, weigh_columns, weigh_position
from minibrillm.kernels.lanes import ROWS, answer, begin, hear, scale_lanes
from minibrillm.kernels.path import Parts
from minibrillm.kernels.products import add, add_dots, add_product
from minibrillm.kernels.sort import BINS

Array = np.ndarray


class Work(NamedTuple):
    """M positions sorted by source, and G sources sorted by bin."""

    indptr: Array  # private edges of the graph, by source
    targets: Array
    source: Array  # (G,)
    start: Array  # (G + 1,) first position of each source
    bin_start: Array  # (BINS + 1,) first source of each bin
    signals: Array  # (M, d + 1), the last number 1
    encoding: Array  # (M, d), or (1, 0) where there is none
    d_signals: Array  # (M, d) found; or (0, d): losses only


class Room(NamedTuple):
    """Memory to work in, kept from call to call; each thread has a row of every array."""

    edge: Array  # (threads, (d + 1) d K) of one source
    d_edge: Array
    h: Array  # (threads, ROWS d K) answers of a block of positions
    y: Array  # (threads, d K)
    columns: Array  # (threads, 3 K)


def sizes_of_room(d: int, n_columns: int) -> tuple[int, ...]:
    """How much memory of each kind one thread needs, for sources with up to so many columns."""
    size = d * n_columns
    return (d + 1) * size, (d + 1) * size, ROWS * size, size, 3 * n_columns


# Where edges are shared there is no source part, and the shared edge is the last lane.


@inlined()
def _compose_row(
    source: Array, shared: Array, own: Array, mine: Array, its: Array, out: Array
) -> None:
    """One row (d K,) of the edges that leave a source: axon + dendrite + synapse (eq. 3).

    ``source`` (1, d) or (0, d), ``shared`` (d,), ``own`` (E, d) the private edges, whose targets
    are ``mine``, ``its`` (d V,) the dendrites.
    """
    d = shared.size
    k = out.size // d
    for o in range(d):
        here = out[o * k : (o + 1) * k]
        if len(source) > 0:
            of_targets, x = its[o * k : (o + 1) * k], source[0, o]
            for j in range(k):
                here[j] = of_targets[j] + x
        else:
            here[k - 1] = shared[o]
    for e in range(mine.size):
        private, lane = own[e], out[(mine[e] if len(source) > 0 else e) :: k]
        if len(source) > 0:
            for o in range(d):
                lane[o] += private[o]
        else:
            for o in range(d):
                lane[o] = private[o]


@inlined()
def _decompose_row(d_source: Array, d_own: Array, mine: Array, d_its: Array, d_row: Array) -> None:
    """The way back of `_compose_row`, for gradients (eq. 13)."""
    d = d_own.shape[1]
    k = d_row.size // d
    if len(d_source) > 0:
        add(d_its, d_row)
        for o in range(d):
            d_source[0, o] = d_row[o * k : (o + 1) * k].sum()
    else:
        for o in range(d):
            d_its[o] += d_row[o * k + k - 1]
    for e in range(mine.size):
        private, lane = d_own[e], d_row[(mine[e] if len(d_source) > 0 else e) :: k]
        for o in range(d):
            private[o] = lane[o]


@inlined()
def _compete_block(
    work: Work, case: Case, edge: Array, d_edge: Array, h: Array, y: Array, columns: Array,
    first: int, last: int,
) -> None:  # fmt: skip
    """Positions first … last - 1 of one source: answers, losses, and the way back (eq. 4-13)."""
    n, d, learns = last - first, len(edge) - 1, len(work.d_signals) > 0
    a, h = work.signals[first:last], h[:n]
    energy, logs, scale = columns[0], columns[1], columns[2]
    for r in range(n):
        begin(h[r], edge[d], work.encoding[(first + r) % len(work.encoding)])
    add_product(a[:, :d], edge[:d], h)
    for r in range(n):
        if learns:
            answer(h[r], y, energy)
        else:
            hear(h[r], energy)
        weigh_position(case, first + r, logs)
        judge(case, first + r, energy, logs, scale)
        if learns:
            scale_lanes(h[r], scale)
    if learns:
        add_dots(h, edge[:d], work.d_signals[first:last])
        add_product(a.T, h, d_edge)


@inlined()
def _compete_at(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, lanes: Array, d_lanes: Array,
    work: Work, case: Case, weights: Weights, room: Room, g: int,
) -> None:  # fmt: skip
    """All positions of source number g."""
    thread, u, d = numba.get_thread_id(), work.source[g], work.d_signals.shape[1]
    low, high, learns = work.indptr[u], work.indptr[u + 1], len(work.d_signals) > 0
    mine = work.targets[low:high]
    k = mine.size + 1 if len(weight.source) == 0 else lanes.shape[1] // d
    edge = room.edge[thread, : (d + 1) * d * k].reshape(d + 1, d * k)
    d_edge = room.d_edge[thread, : (d + 1) * d * k].reshape(d + 1, d * k)
    h, y = room.h[thread, : ROWS * d * k].reshape(ROWS, d * k), room.y[thread, : d * k]
    columns = room.columns[thread, : 3 * k].reshape(3, k)
    at = min(u, len(weight.source))  # there are none where edges are shared
    source, source_bias = weight.source[at : at + 1], bias.source[at : at + 1]
    for i in range(d):
        own = weight.private[low:high, i]
        _compose_row(source[:, i], weight.target[0, i], own, mine, lanes[i], edge[i])
    _compose_row(source_bias, bias.target[0], bias.private[low:high], mine, lanes[d], edge[d])
    weigh_columns(weights, u, low + u, columns[1])
    if learns:
        d_edge[:] = 0
    for first in range(work.start[g], work.start[g + 1], ROWS):
        last = min(first + ROWS, work.start[g + 1])
        _compete_block(work, case, edge, d_edge, h, y, columns, first, last)
    if learns:
        d_source, d_source_bias = d_weight.source[at : at + 1], d_bias.source[at : at + 1]
        for i in range(d):
            d_own = d_weight.private[low:high, i]
            _decompose_row(d_source[:, i], d_own, mine, d_lanes[i], d_edge[i])
        _decompose_row(d_source_bias, d_bias.private[low:high], mine, d_lanes[d], d_edge[d])


@kernel(parallel=True)
def compete_composed(
    weight: Parts, bias: Parts, d_weight: Parts, d_bias: Parts, lanes: Array, d_lanes: Array,
    work: Work, case: Case, weights: Weights, room: Room,
) -> None:  # fmt: skip
    """Every source, a bin of them at a time; ``d_lanes`` (BINS, d + 1, d V)."""
    for b in prange(BINS):
        for g in range(work.bin_start[b], work.bin_start[b + 1]):
            _compete_at(
                weight, bias, d_weight, d_bias, lanes, d_lanes[b], work, case, weights, room,
                np.int64(g),
            )  # fmt: skip
