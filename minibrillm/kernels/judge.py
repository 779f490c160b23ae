"""Energies become probabilities, the loss, and what each energy is to do (eq. 8-11)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minibrillm.kernels.gelu import exp
from minibrillm.kernels.jit import inlined

Array = np.ndarray

# Where an energy is next to 0, so is the answer, and its gradient whatever it is divided by, if
# that is finite.
_LEAST_SINGLE, _LEAST_DOUBLE = 1e-6, 1e-30


class Case(NamedTuple):
    """What must be known of M positions, sorted by source, to judge their energies."""

    true: Array  # (M,) column of the true target
    true_log: Array  # (M,) its own log weight
    place: Array  # (M,) where each position was before it was sorted
    candidates: Array  # (M, C) columns of those that compete alone; C = 0: all
    candidate_logs: Array  # (M, C)
    rows: Array  # (M, V) by place, log weights of all targets; or (0, V): those of the source
    change: Array  # (M, V) by place, their derivative in κ; or (0, V)
    share: Array  # (M,) part in the mean loss
    below: float  # probabilities below are rounded at random
    draws: Array  # (M,) for that; (0,): no rounding
    nll: Array  # (M,) found: −log p of the true target
    d_trust: Array  # (M,) found, by place: dloss/dκ; (0,): not wanted


class Weights(NamedTuple):
    """Log weights of the columns at each source (eq. 9): own ones, then back-off + unigram."""

    indptr: Array
    targets: Array
    log_probability: Array
    log_backoff: Array  # (V,)
    log_unigram: Array  # (V,)
    log_columns: Array  # where unseen targets are one class: of every column, source by source


@inlined()
def weigh_columns(w: Weights, u: int, first: int, out: Array) -> None:
    """Log weight of every column at u; ``first`` is where those of u begin, with a class."""
    if w.log_columns.size > 0:
        for k in range(out.size):
            out[k] = w.log_columns[first + k]
        return
    for v in range(out.size):
        out[v] = w.log_backoff[u] + w.log_unigram[v]
    for j in range(w.indptr[u], w.indptr[u + 1]):
        out[w.targets[j]] = w.log_probability[j]


@inlined()
def weigh_position(case: Case, r: int, out: Array) -> None:
    """Log weights where those of a position are its own; else they stay as they are."""
    if case.candidates.shape[1] > 0:
        out[:] = -np.inf
        for c in range(case.candidates.shape[1]):  # several may share a column
            k, x = case.candidates[r, c], case.candidate_logs[r, c]
            high, low = max(out[k], x), min(out[k], x)
            out[k] = high + math.log1p(math.exp(low - high))
    elif len(case.rows) > 0:
        row = case.rows[case.place[r]]
        for k in range(out.size):
            out[k] = row[k]


@inlined()
def _largest(x: Array) -> Any:
    """The largest of x, four chains at a time: one alone would wait for each comparison."""
    a = b = c = d = x[0]
    for k in range(0, x.size - 3, 4):
        a, b, c, d = max(a, x[k]), max(b, x[k + 1]), max(c, x[k + 2]), max(d, x[k + 3])
    for k in range(x.size - x.size % 4, x.size):
        a = max(a, x[k])
    return max(max(a, b), max(c, d))


@inlined()
def _softmax(e: Array, logs: Array, p: Array) -> float:
    """p = softmax(e + logs); returns the log of its normaliser."""
    for k in range(e.size):
        p[k] = e[k] + logs[k]
    top, total = _largest(p), p.dtype.type(0)
    for k in range(e.size):
        x = exp(p[k] - top)
        p[k] = x
        total += x
    inverse = p.dtype.type(1) / total
    for k in range(e.size):
        p[k] *= inverse
    return top + math.log(total)


@inlined()
def _round_at_random(p: Array, below: float, draw: float) -> None:
    """As `minibrillm.variance.round_at_random`, for one position and in place."""
    line, whole, inverse = draw, 1.0, 1 / below
    for k in range(p.size):
        if p[k] < below:
            line += np.float64(p[k]) * inverse
            p[k] = 0
            if line >= whole:
                p[k] = below
                whole += 1


@inlined()
def judge(case: Case, r: int, energy: Array, logs: Array, scale: Array) -> None:
    """Loss of one position; ``scale`` becomes dloss/dE over E of every column."""
    log_z, true = _softmax(energy, logs, scale), case.true[r]
    case.nll[r] = log_z - energy[true] - case.true_log[r]  # eq. 8, 10
    if case.d_trust.size > 0:
        total, change = scale.dtype.type(0), case.change[case.place[r]]
        for k in range(scale.size):
            total += scale[k] * (change[k] - change[true])
        case.d_trust[case.place[r]] = case.share[r] * total  # eq. 11c
    if case.draws.size > 0:
        _round_at_random(scale, case.below, case.draws[r])
    scale[true] -= 1
    least: Any = scale.dtype.type(_LEAST_SINGLE if scale.itemsize == 4 else _LEAST_DOUBLE)
    for k in range(scale.size):
        scale[k] *= case.share[r] / max(energy[k], least)  # eq. 11
