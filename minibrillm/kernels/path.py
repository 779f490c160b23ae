"""The signal along its path, forward and back: the hot loop, and the first file to read.

An edge is made of up to three parts, and what it answers is the sum of what they answer:

    three_part    axon of the source + dendrite of the target + synapse of the bigram
    shared        the private edge of the bigram, or else the one edge that all others share
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import prange

from minibrillm.functional import bound_of
from minibrillm.kernels.gelu import normal
from minibrillm.kernels.jit import inlined, kernel
from minibrillm.kernels.products import (
    add,
    add_product,
    add_row,
    add_row_dots,
    add_row_dots_of_three,
    add_row_of_three,
    copy,
    dot,
)
from minibrillm.kernels.sort import BINS

if TYPE_CHECKING:
    from minibrillm.config import ModelConfig
    from minibrillm.graph import TokenGraph

Array = np.ndarray


class Parts(NamedTuple):
    """Weights (N, d, d), or biases (N, d), of the parts of edges."""

    source: Array  # of each source; there are none where edges are shared
    target: Array  # of each target; or the one shared edge
    private: Array  # of each bigram that has one


def parts_of_edges(arrays: Mapping[str, Array], config: ModelConfig) -> tuple[Parts, Parts]:
    """Weights and biases of either kind of edge under common names."""
    if config.edges == "three_part":
        names = ("axon", "dendrite", "synapse")
        weight, bias = (Parts(*(arrays[f"{x}_{kind}"] for x in names)) for kind in _KINDS)
    else:
        weight, bias = (
            Parts(
                arrays[f"edge_{kind}"][:0], arrays[f"edge_{kind}"][:1], arrays[f"edge_{kind}"][1:]
            )
            for kind in _KINDS
        )
    return weight, bias


_KINDS = ("weight", "bias")


class Steps(NamedTuple):
    """n edges of B sequences: which parts they are made of, and how the memory moves."""

    part: Array  # (B, n, 3) place in `Parts`, -1: no such part
    keep: Array  # (n, d)
    gain: Array  # (n,)
    z: Array  # (n + 1, d)
    tightness: Any  # 1 / c², 0 without a bound


def steps_of(
    parameters: Mapping[str, Array],
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    schedule: Any,
) -> Steps:
    """The edges along ``tokens`` (B, n + 1)."""
    u, v = tokens[:, :-1], tokens[:, 1:]
    private = graph.edge(u, v)
    if config.edges == "shared":
        u, v = np.full_like(private, -1), np.where(private < 0, 0, -1)
    bound, part = bound_of(parameters), np.stack([u, v, private], axis=2)
    tightness = schedule.gain.dtype.type(bound and bound**-2.0)
    keep = np.ascontiguousarray(schedule.keep)  # one layout: Numba compiles for each
    return Steps(part, keep, schedule.gain, schedule.normaliser, tightness)


# ----------------------------------------------------------------------------------------- forward


class Forward(NamedTuple):
    """What the path pass reads and writes."""

    encoding: Array  # (n, d)
    acc: Array  # (B, d) accumulators, moved on
    incoming: Array  # (B, n + 1, d), a_0 is given
    pre_activation: Array  # (B, n, d)
    signal: Array  # (B, n, d)


@inlined()
def _hear_edge(weight: Parts, part: Array, a: Array, h: Array) -> None:
    """h (d,) += a (d,) W, W the sum of its parts (eq. 3-4)."""
    u, v, e = part
    if u >= 0 and e >= 0:  # in one sweep, for most edges have all three
        add_row_of_three(a, weight.source[u], weight.target[v], weight.private[e], h)
        return
    for kind in range(3):
        if part[kind] >= 0:
            add_row(a, weight[kind][part[kind]], h, 0)


@inlined()
def _stream_forward(weight: Parts, bias: Parts, steps: Steps, f: Forward, b: int) -> None:
    acc, one = f.acc[b], steps.gain.dtype.type(1)
    for i in range(len(steps.gain)):
        a, h, s, part = f.incoming[b, i], f.pre_activation[b, i], f.signal[b, i], steps.part[b, i]
        copy(h, f.encoding[i])
        for kind in range(3):
            if part[kind] >= 0:
                add(h, bias[kind][part[kind]])
        _hear_edge(weight, part, a, h)
        square = h.dtype.type(0)
        for o in range(h.size):
            cdf, _ = normal(h[o])
            s[o] = h[o] * cdf
            square += s[o] * s[o]
        q = one / np.sqrt(one + square * steps.tightness)  # eq. 6
        keep, z, after = steps.keep[i], steps.z[i + 1], f.incoming[b, i + 1]
        for o in range(h.size):
            s[o] *= q
            acc[o] = keep[o] * acc[o] + steps.gain[i] * s[o]  # eq. 7
            after[o] = acc[o] / z[o]


@kernel()
def one_stream_forward(weight: Parts, bias: Parts, steps: Steps, f: Forward) -> None:
    """One sequence, edge by edge: as in generation, with nothing to compile for many."""
    _stream_forward(weight, bias, steps, f, 0)


@kernel(parallel=True)
def streams_forward(weight: Parts, bias: Parts, steps: Steps, f: Forward) -> None:
    """Every sequence, edge by edge (eq. 1-7)."""
    for b in prange(len(f.acc)):
        _stream_forward(weight, bias, steps, f, np.int64(b))


# ---------------------------------------------------------------------------------------- backward


class Backward(NamedTuple):
    """What the way back reads and writes."""

    incoming: Array  # (B, n, d)
    pre_activation: Array  # (B, n, d)
    signal: Array  # (B, n, d)
    da: Array  # (B, n, d) what the competition gives; the whole gradient afterwards
    dh: Array  # (B, n, d)
    d_acc: Array  # (B, d)
    d_keep: Array  # (B, n, d)
    d_gain: Array  # (B, n)
    d_log_bound: Array  # (B, n)


@inlined()
def _send_back(weight: Parts, part: Array, dh: Array, da: Array) -> None:
    """da (d,) += dh (d,) Wᵀ, likewise (eq. 16)."""
    u, v, e = part
    if u >= 0 and e >= 0:
        add_row_dots_of_three(dh, weight.source[u], weight.target[v], weight.private[e], da)
        return
    for kind in range(3):
        if part[kind] >= 0:
            add_row_dots(dh, weight[kind][part[kind]], da, 0)


@inlined()
def _stream_backward(weight: Parts, steps: Steps, f: Backward, b: int) -> None:
    d_acc, one = f.d_acc[b], steps.gain.dtype.type(1)
    for i in range(len(steps.gain) - 1, -1, -1):
        a, h, s = f.incoming[b, i], f.pre_activation[b, i], f.signal[b, i]
        da, dh, keep, gain, z = f.da[b, i], f.dh[b, i], steps.keep[i], steps.gain[i], steps.z[i]
        d_keep = f.d_keep[b, i]
        along = f.d_gain[b, i] = dot(d_acc, s)  # towards eq. 19
        square = h.dtype.type(0)
        for o in range(h.size):
            d_keep[o] = d_acc[o] * a[o] * z[o]  # acc_i = a_i z_i, towards eq. 18
            cdf, pdf = normal(h[o])
            square += h[o] * cdf * h[o] * cdf
            dh[o] = cdf + h[o] * pdf
        q, along = one / np.sqrt(one + square * steps.tightness), along * steps.tightness
        f.d_log_bound[b, i] = gain * along * q * q * square  # eq. 15
        for o in range(h.size):
            dh[o] *= gain * q * (d_acc[o] - along * s[o])  # eq. 14-15
        _send_back(weight, steps.part[b, i], dh, da)
        if i > 0:
            for o in range(h.size):
                d_acc[o] = keep[o] * d_acc[o] + da[o] / z[o]  # eq. 14


@kernel(parallel=True)
def streams_backward(weight: Parts, steps: Steps, f: Backward) -> None:
    """Every sequence, from its last edge to its first (eq. 14-16)."""
    for b in prange(len(f.d_acc)):
        _stream_backward(weight, steps, f, np.int64(b))


class Crossed(NamedTuple):
    """Positions grouped by one kind of part that they crossed, and the groups by bin."""

    label: Array  # (G,) place in `Parts`
    start: Array  # (G + 1,)
    order: Array  # positions, those of a label side by side
    bin_start: Array  # (BINS + 1,)
    a: Array  # (M, d) what came in at each position
    dh: Array  # (M, d)


_GATHERED = 48  # positions that are brought side by side


@inlined()
def _learn_parts(x: Crossed, d_weight: Array, d_bias: Array, b: int) -> None:
    d = x.a.shape[1]
    a, dh = np.empty((_GATHERED, d), x.a.dtype), np.empty((_GATHERED, d), x.a.dtype)
    for g in range(x.bin_start[b], x.bin_start[b + 1]):
        part = x.label[g]
        for first in range(x.start[g], x.start[g + 1], _GATHERED):
            n = min(x.start[g + 1] - first, _GATHERED)
            for r in range(n):
                row = x.order[first + r]
                copy(a[r], x.a[row])
                copy(dh[r], x.dh[row])
                add(d_bias[part], dh[r])
            add_product(a[:n].T, dh[:n], d_weight[part])  # eq. 16


@kernel(parallel=True)
def learn_parts(x: Crossed, d_weight: Array, d_bias: Array) -> None:
    """The gradient of each part, from all positions that crossed it."""
    for b in prange(BINS):
        _learn_parts(x, d_weight, d_bias, np.int64(b))
