"""Activation, exponential and logarithm without a branch, so that loops over them vectorise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from minibrillm.kernels.jit import INLINED, Function, inlined

Array = np.ndarray

_F = np.float32
_ZERO, _HALF, _ONE, _TWO = _F(0), _F(0.5), _F(1), _F(2)


def _by_precision(single: Function, double: Function) -> Function:
    """The function of one number that is ``single`` in float32 and ``double`` in float64."""

    def function(x: Any) -> Any:
        return double(x)  # without the compiler; compiled, what follows takes its place

    @overload(function, jit_options=INLINED)
    def choose(x: Any) -> Function:
        return single if x == types.float32 else double

    return function


# 2^f for |f| ≤ ½, interpolated at Chebyshev's points; relative error below 1.1e-7.
_B0, _B1, _B2 = _F(1.0000001192092896), _F(0.6931471824645996), _F(0.2402210682630539)
_B3, _B4, _B5 = _F(0.05550327152013779), _F(0.009676037356257439), _F(0.0013400432653725147)
_LEAST_POWER = _F(-126)
_LOG2E, _HALF_LOG2E = _F(math.log2(math.e)), _F(0.5 * math.log2(math.e))


@inlined()
def _power_of_two(x: Any) -> Any:
    """2^x in float32; 2^-126 at least."""
    x = max(x, _LEAST_POWER)
    whole = np.floor(x + _HALF)
    f = x - whole
    p = _B0 + f * (_B1 + f * (_B2 + f * (_B3 + f * (_B4 + f * _B5))))
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


def _exp_single(x: Any) -> Any:
    return _power_of_two(x * _LOG2E)


def _exp_double(x: Any) -> Any:
    return math.exp(x)


exp = _by_precision(_exp_single, _exp_double)  # e^x for x ≤ 0


# Abramowitz & Stegun 7.1.26 for erf(x), |error| < 1.5e-7; x = |h| / √2.
_T = _F(0.3275911 / math.sqrt(2))
_A1, _A2, _A3 = _F(0.254829592 / 2), _F(-0.284496736 / 2), _F(1.421413741 / 2)
_A4, _A5 = _F(-1.453152027 / 2), _F(1.061405429 / 2)
_SQRT_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_DENSITY32 = _F(_DENSITY)


def _normal_single(x: Any) -> Any:
    size = abs(x)
    e = _power_of_two(-_HALF_LOG2E * size * size)
    t = _ONE / (_ONE + _T * size)
    tail = e * t * (_A1 + t * (_A2 + t * (_A3 + t * (_A4 + t * _A5))))
    return tail if x < _ZERO else _ONE - tail, e * _DENSITY32


def _normal_double(x: Any) -> Any:
    return 0.5 * math.erfc(-x * _SQRT_HALF), math.exp(-0.5 * x * x) * _DENSITY


normal = _by_precision(_normal_single, _normal_double)  # Φ(x) and φ(x), to 1e-7 or exact


_MANTISSA, _EXPONENT_OF_ONE = np.int32(0x7FFFFF), np.int32(0x3F800000)
_SQRT_TWO, _LN2 = _F(math.sqrt(2)), _F(math.log(2))
_THIRD, _FIFTH, _SEVENTH, _NINTH = _F(1 / 3), _F(1 / 5), _F(1 / 7), _F(1 / 9)


def _log_single(x: Any) -> Any:
    bits = np.float32(x).view(np.int32)  # x = m 2^e with m in [√½, √2)
    m = np.int32((bits & _MANTISSA) | _EXPONENT_OF_ONE).view(np.float32)
    high = m > _SQRT_TWO
    e = np.float32(np.int32(bits >> np.int32(23)) - np.int32(127)) + (_ONE if high else _ZERO)
    half = m * (_HALF if high else _ONE)
    s = (half - _ONE) / (half + _ONE)
    q = s * s
    series = q * (_THIRD + q * (_FIFTH + q * (_SEVENTH + q * _NINTH)))
    return e * _LN2 + _TWO * (s + s * series)


def _log_double(x: Any) -> Any:
    return math.log(x)


log = _by_precision(_log_single, _log_double)  # for x > 0


@inlined()
def gelu_and_product(h: Array, y: Array) -> None:
    """y = gelu(h), and h becomes gelu(h) gelu'(h): flat arrays that do not overlap (eq. 4, 12)."""
    for j in range(h.size):
        x = h[j]
        cdf, pdf = normal(x)
        y[j] = x * cdf
        h[j] = x * cdf * (cdf + x * pdf)


@inlined()
def gelu_product(h: Array) -> None:
    """h becomes gelu(h) gelu'(h)."""
    for j in range(h.size):
        x = h[j]
        cdf, pdf = normal(x)
        h[j] = x * cdf * (cdf + x * pdf)


@inlined()
def gelu(h: Array) -> None:
    """h becomes gelu(h) (eq. 4)."""
    for j in range(h.size):
        cdf, _ = normal(h[j])
        h[j] *= cdf
