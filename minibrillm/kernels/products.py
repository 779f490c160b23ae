"""Products of matrices that are small: what is loaded from memory is used as often as it can be.

Rows are worked on three at a time and terms four at a time: twelve products to seven numbers
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
        for r in range(0, n - 2, 3):
            x, y, z = h[r, low:high], h[r + 1, low:high], h[r + 2, low:high]
            for k in range(0, depth - 3, 4):
                w0, w1 = w[k, low:high], w[k + 1, low:high]
                w2, w3 = w[k + 2, low:high], w[k + 3, low:high]
                a0, a1, a2, a3 = a[r, k], a[r, k + 1], a[r, k + 2], a[r, k + 3]
                b0, b1, b2, b3 = a[r + 1, k], a[r + 1, k + 1], a[r + 1, k + 2], a[r + 1, k + 3]
                c0, c1, c2, c3 = a[r + 2, k], a[r + 2, k + 1], a[r + 2, k + 2], a[r + 2, k + 3]
                for j in range(x.size):
                    v0, v1, v2, v3 = w0[j], w1[j], w2[j], w3[j]
                    one = x[j] + a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                    two = y[j] + b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
                    three = z[j] + c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
                    x[j], y[j], z[j] = one, two, three
            for k in range(depth - depth % 4, depth):  # terms that remain
                add_multiple(x, a[r, k], w[k, low:high])
                add_multiple(y, a[r + 1, k], w[k, low:high])
                add_multiple(z, a[r + 2, k], w[k, low:high])
        for r in range(n - n % 3, n):  # rows that remain
            add_row(a[r], w, h[r, low:high], low)


@inlined()
def add_dots(h: Array, w: Array, a: Array) -> None:
    """a (n, k) += h (n, m) w (k, m)ᵀ"""
    (n, m), depth, zero = h.shape, len(w), h.dtype.type(0)
    for low in range(0, m, _piece(m)):
        high = min(low + _piece(m), m)
        for r in range(0, n - 2, 3):
            x, y, z = h[r, low:high], h[r + 1, low:high], h[r + 2, low:high]
            for k in range(0, depth - 3, 4):
                w0, w1 = w[k, low:high], w[k + 1, low:high]
                w2, w3 = w[k + 2, low:high], w[k + 3, low:high]
                a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = zero
                for j in range(x.size):
                    v0, v1, v2, v3 = w0[j], w1[j], w2[j], w3[j]
                    a0, a1, a2, a3 = a0 + x[j] * v0, a1 + x[j] * v1, a2 + x[j] * v2, a3 + x[j] * v3
                    b0, b1, b2, b3 = b0 + y[j] * v0, b1 + y[j] * v1, b2 + y[j] * v2, b3 + y[j] * v3
                    c0, c1, c2, c3 = c0 + z[j] * v0, c1 + z[j] * v1, c2 + z[j] * v2, c3 + z[j] * v3
                _add_four(a[r], k, a0, a1, a2, a3)
                _add_four(a[r + 1], k, b0, b1, b2, b3)
                _add_four(a[r + 2], k, c0, c1, c2, c3)
            for k in range(depth - depth % 4, depth):
                a[r, k] += dot(x, w[k, low:high])
                a[r + 1, k] += dot(y, w[k, low:high])
                a[r + 2, k] += dot(z, w[k, low:high])
        for r in range(n - n % 3, n):
            add_row_dots(h[r, low:high], w, a[r], low)


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
    for k in range(0, depth - 3, 4):
        w0, w1 = w[k, low:high], w[k + 1, low:high]
        w2, w3 = w[k + 2, low:high], w[k + 3, low:high]
        a0 = a1 = a2 = a3 = zero
        for j in range(h.size):
            x = h[j]
            a0, a1, a2, a3 = a0 + x * w0[j], a1 + x * w1[j], a2 + x * w2[j], a3 + x * w3[j]
        _add_four(a, k, a0, a1, a2, a3)
    for k in range(depth - depth % 4, depth):
        a[k] += dot(h, w[k, low:high])


@inlined()
def add_row_of_three(a: Array, u: Array, v: Array, w: Array, h: Array) -> None:
    """h (m,) += a (k,) (u + v + w), all (k, m)"""
    for k in range(a.size):
        x, one, two, three = a[k], u[k], v[k], w[k]
        for j in range(h.size):
            h[j] += x * (one[j] + two[j] + three[j])


@inlined()
def add_row_dots_of_three(h: Array, u: Array, v: Array, w: Array, a: Array) -> None:
    """a (k,) += h (m,) (u + v + w)ᵀ, all (k, m)"""
    for k in range(a.size):
        total, one, two, three = a[k], u[k], v[k], w[k]
        for j in range(h.size):
            total += h[j] * (one[j] + two[j] + three[j])
        a[k] = total


@inlined()
def _add_four(a: Array, k: int, a0: Any, a1: Any, a2: Any, a3: Any) -> None:
    a[k] += a0
    a[k + 1] += a1
    a[k + 2] += a2
    a[k + 3] += a3


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
