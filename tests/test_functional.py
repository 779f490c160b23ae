"""The small functions against scipy and central differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from minibrillm.functional import (
    energy,
    energy_backward,
    gelu,
    gelu_derivative,
    logsumexp,
    position_encoding,
    sigmoid,
)

RNG = np.random.default_rng(0)


def test_gelu_is_the_exact_one() -> None:
    h = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(gelu(h), h * 0.5 * (1 + erf(h / np.sqrt(2))), atol=1e-15)
    assert gelu(h.astype(np.float32)).dtype == np.float32
    assert gelu_derivative(h.astype(np.float32)).dtype == np.float32


def test_gelu_derivative_is_the_slope_of_gelu() -> None:
    h, step = np.linspace(-6, 6, 501), 1e-5
    slope = (gelu(h + step) - gelu(h - step)) / (2 * step)
    np.testing.assert_allclose(gelu_derivative(h), slope, atol=1e-9)


def test_energy_and_its_gradient() -> None:
    y, d_energy = RNG.normal(size=(5, 3, 7)), RNG.normal(size=(5, 3))
    np.testing.assert_allclose(energy(y), np.linalg.norm(y, axis=-1))
    gradient = energy_backward(d_energy, y, energy(y))
    step = 1e-6
    for index in [(0, 0, 0), (4, 2, 6), (2, 1, 3)]:
        up, down = y.copy(), y.copy()
        up[index] += step
        down[index] -= step
        slope = ((energy(up) - energy(down)) * d_energy).sum() / (2 * step)
        assert gradient[index] == pytest.approx(slope, rel=1e-7)


def test_energy_zero_has_gradient_zero() -> None:
    y = np.zeros((2, 4))
    assert not energy_backward(np.ones(2), y, energy(y)).any()


def test_logsumexp_is_stable_and_knows_the_empty_class() -> None:
    logits = np.array([[1000.0, 1000.0, -np.inf], [-1000.0, -1001.0, -1002.0]])
    expected = [1000 + np.log(2), -1000 + np.log(1 + np.exp(-1) + np.exp(-2))]
    np.testing.assert_allclose(logsumexp(logits), expected)
    assert logsumexp(np.full(3, -np.inf)) == -np.inf


def test_sigmoid() -> None:
    x = np.array([-800.0, -2.0, 0.0, 3.0, 800.0])
    np.testing.assert_allclose(sigmoid(x), [0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-3)), 1])


def test_neighbouring_positions_resemble_each_other_only_in_the_standard_encoding() -> None:
    """The slip in the released code: cos(P_i, P_{i+1}) is 0.19 instead of 0.957 (MODEL.md)."""
    for kind, expected in (("sinusoidal", 0.957), ("released", 0.19)):
        p = position_encoding(kind, 0, 512, 32)
        cosine = (p[:-1] * p[1:]).sum(1) / np.linalg.norm(p[:-1], axis=1)
        cosine /= np.linalg.norm(p[1:], axis=1)
        assert cosine.mean() == pytest.approx(expected, abs=0.005)


def test_positions_can_start_anywhere() -> None:
    for kind in ("none", "sinusoidal", "released"):
        whole = position_encoding(kind, 0, 20, 5)
        np.testing.assert_array_equal(position_encoding(kind, 7, 6, 5), whole[7:13])
    assert not position_encoding("none", 3, 4, 8).any()
