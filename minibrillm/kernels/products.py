"""Products of matrices that are small: what is loaded from memory is used as often as it can be.

Rows are worked on four at a time and terms three at a time: twelve products to seven numbers
loaded, and all of them stay in the sixteen vector registers that any processor has. Columns come
piece by piece, so that what is used again lies in the first cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minibrillm.kernels.jit import inlined

Array = np.ndarray

_PIECE = 1024  # columns of a piece, about


@inlined()
def _piece(m: int) -> int:
    """m columns in pieces of one length, a multiple of 16, so that none is short."""
    pieces = max((m + _PIECE // 2) // _PIECE, 1)
    return (m + 16 * pieces - 1) // (16 * pieces) * 16


@inlined()
def add_product(a: Array, w: Array, h: Array) -> None:
    """h (n, m) += a (n, k) w (k, m)"""
    (n, m), depth = h.shape, len(w)
    for low in range(0, m, _piece(m)):
        high = min(low + _piece(m), m)
        for r in range(0, n - 3, 4):
            h0, h1 = h[r, low:high], h[r + 1, low:high]
            h2, h3 = h[r + 2, low:high], h[r + 3, low:high]
            for k in range(0, depth - 2, 3):
                w0, w1, w2 = w[k, low:high], w[k + 1, low:high], w[k + 2, low:high]
                a0, a1, a2 = a[r, k], a[r, k + 1], a[r, k + 2]
                b0, b1, b2 = a[r + 1, k], a[r + 1, k + 1], a[r + 1, k + 2]
                c0, c1, c2 = a[r + 2, k], a[r + 2, k + 1], a[r + 2, k + 2]
                d0, d1, d2 = a[r + 3, k], a[r + 3, k + 1], a[r + 3, k + 2]
                for j in range(h0.size):
                    x, y, z = w0[j], w1[j], w2[j]
                    one = h0[j] + a0 * x + a1 * y + a2 * z
                    two = h1[j] + b0 * x + b1 * y + b2 * z
                    three = h2[j] + c0 * x + c1 * y + c2 * z
                    four = h3[j] + d0 * x + d1 * y + d2 * z
                    h0[j], h1[j], h2[j], h3[j] = one, two, three, four
            for k in range(depth - depth % 3, depth):  # terms that remain
                add_multiple(h0, a[r, k], w[k, low:high])
                add_multiple(h1, a[r + 1, k], w[k, low:high])
                add_multiple(h2, a[r + 2, k], w[k, low:high])
                add_multiple(h3, a[r + 3, k], w[k, low:high])
        for r in range(n - n % 4, n):  # rows that remain
            add_row(a[r], w, h[r, low:high], low)


@inlined()
def add_dots(h: Array, w: Array, a: Array) -> None:
    """a (n, k) += h (n, m) w (k, m)ᵀ"""
    (n, m), depth, zero = h.shape, len(w), h.dtype.type(0)
    for low in range(0, m, _piece(m)):
        high = min(low + _piece(m), m)
        for r in range(0, n - 3, 4):
            h0, h1 = h[r, low:high], h[r + 1, low:high]
            h2, h3 = h[r + 2, low:high], h[r + 3, low:high]
            for k in range(0, depth - 2, 3):
                w0, w1, w2 = w[k, low:high], w[k + 1, low:high], w[k + 2, low:high]
                a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = zero
                for j in range(h0.size):  # in this order, or sums would not stay in registers
                    x, y, z = w0[j], w1[j], w2[j]
                    g = h0[j]
                    a0, a1, a2 = a0 + g * x, a1 + g * y, a2 + g * z
                    g = h1[j]
                    b0, b1, b2 = b0 + g * x, b1 + g * y, b2 + g * z
                    g = h2[j]
                    c0, c1, c2 = c0 + g * x, c1 + g * y, c2 + g * z
                    g = h3[j]
                    d0, d1, d2 = d0 + g * x, d1 + g * y, d2 + g * z
                _add_three(a[r], k, a0, a1, a2)
                _add_three(a[r + 1], k, b0, b1, b2)
                _add_three(a[r + 2], k, c0, c1, c2)
                _add_three(a[r + 3], k, d0, d1, d2)
            for k in range(depth - depth % 3, depth):
                a[r, k] += dot(h0, w[k, low:high])
                a[r + 1, k] += dot(h1, w[k, low:high])
                a[r + 2, k] += dot(h2, w[k, low:high])
                a[r + 3, k] += dot(h3, w[k, low:high])
        for r in range(n - n % 4, n):
            add_row_dots(h[r, low:high], w, a[r], low)


@inlined()
def _add_three(a: Array, k: int, x: Any, y: Any, z: Any) -> None:
    a[k] += x
    a[k + 1] += y
    a[k + 2] += z


# ------------------------------------------------------------------------------------- one signal


@inlined()
def add_row(a: Array, w: Array, h: Array, low: int) -> None:
    """h (m,) += a (k,) w (k, low … low + m - 1)"""
    depth, high = len(w), low + h.size
    for k in range(0, depth - 3, 4):
        w0, w1 = w[k, low:high], w[k + 1, low:high]
        w2, w3 = w[k + 2, low:high], w[k + 3, low:high]
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        for j in range(h.size):
            h[j] += a0 * w0[j] + a1 * w1[j] + a2 * w2[j] + a3 * w3[j]
    for k in range(depth - depth % 4, depth):
        add_multiple(h, a[k], w[k, low:high])


@inlined()
def add_row_dots(h: Array, w: Array, a: Array, low: int) -> None:
    """a (k,) += h (m,) w (k, low … low + m - 1)ᵀ"""
    depth, high, zero = len(w), low + h.size, h.dtype.type(0)
    for k in range(0, depth - 2, 3):
        w0, w1, w2 = w[k, low:high], w[k + 1, low:high], w[k + 2, low:high]
        x = y = z = zero
        for j in range(h.size):
            g = h[j]
            x, y, z = x + g * w0[j], y + g * w1[j], z + g * w2[j]
        _add_three(a, k, x, y, z)
    for k in range(depth - depth % 3, depth):
        a[k] += dot(h, w[k, low:high])


@inlined()
def add_multiple(x: Array, factor: Any, y: Array) -> None:
    """x += factor y, flat arrays."""
    for j in range(x.size):
        x[j] += factor * y[j]


@inlined()
def copy(x: Array, y: Array) -> None:
    """x = y, flat arrays."""
    for j in range(x.size):
        x[j] = y[j]


@inlined()
def add(x: Array, y: Array) -> None:
    """x += y, flat arrays."""
    for j in range(x.size):
        x[j] += y[j]


@inlined()
def dot(x: Array, y: Array) -> Any:
    """Σ x y, flat arrays."""
    total = x.dtype.type(0)
    for j in range(x.size):
        total += x[j] * y[j]
    return total
