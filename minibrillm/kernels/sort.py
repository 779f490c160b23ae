"""Positions side by side that have something in common, and a fair share of them for each bin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minibrillm.kernels.jit import kernel

Array = np.ndarray

BINS = 8  # fixed: results must not depend on the number of threads


class Groups(NamedTuple):
    """Places with equal labels, side by side: group k is ``order[start[k]:start[k + 1]]``."""

    label: Array  # (G,) the distinct labels
    start: Array  # (G + 1,)
    order: Array  # (N,) indices into the flat labels; equal labels keep their order


def group_by(labels: Array) -> Groups:
    """Group flat places of ``labels`` (integers of any shape) by value; negative ones stay out."""
    flat = labels.ravel()
    # A radix sort serves 16-bit integers: several times faster, the same result.
    small = flat.size > 0 and flat.max() < 2**16 - 1
    order = np.argsort(flat.astype(np.uint16) if small else flat, kind="stable")
    order = order[flat[order] >= 0]
    ordered = flat[order]
    start = np.flatnonzero(np.diff(ordered, prepend=-1))
    return Groups(ordered[start], np.append(start, ordered.size), order)


@kernel()
def _bins_of(cost: Array, heaviest_first: Array) -> Array:
    bins, load = np.empty(cost.size, np.int64), np.zeros(2 * BINS)
    for g in heaviest_first:
        k = 1  # the root of a binary tree: the children of node k are 2k and 2k + 1
        while k < BINS:
            k = 2 * k if load[2 * k] <= load[2 * k + 1] else 2 * k + 1
            load[k] += cost[g]
        bins[g] = k - BINS
    return bins


def in_order(groups: Groups, order: Array) -> Groups:
    """The same groups in another order (G,), their places with them."""
    size = np.diff(groups.start)[order]
    start = np.append(0, np.cumsum(size))
    places = np.arange(start[-1]) + np.repeat(groups.start[order] - start[:-1], size)
    return Groups(groups.label[order], start, groups.order[places])


def deal(groups: Groups, cost: Array) -> tuple[Groups, Array]:
    """Groups sorted by bin, and where each bin begins (BINS + 1,); ``cost`` (G,) in float64.

    Heaviest first, each goes to the lightest half, quarter, eighth: so any number of threads that
    share the bins evenly has an even load.
    """
    bins = _bins_of(cost, np.argsort(-cost, kind="stable"))
    dealt = np.argsort(bins, kind="stable")
    return in_order(groups, dealt), np.searchsorted(bins[dealt], np.arange(BINS + 1))
