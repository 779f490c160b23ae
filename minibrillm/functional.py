"""The small functions of the model, each beside its derivative.

Equation numbers refer to ``minibrillm/MODEL.md``. Row vectors throughout: a signal is a row ``a``
of d numbers and an edge acts as ``a @ W``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import ndtr

Array = np.ndarray
Named = dict[str, Array]


def gelu(h: Array) -> Array:
    """Exact Gaussian error linear unit, h Φ(h), elementwise (eq. 4)."""
    return h * ndtr(h)


def gelu_derivative(h: Array) -> Array:
    """Derivative of `gelu`, Φ(h) + h φ(h), elementwise (eq. 12)."""
    return ndtr(h) + h * np.exp(-0.5 * h * h) * h.dtype.type(1 / np.sqrt(2 * np.pi))


def energy(y: Array) -> Array:
    """Energy of a signal: its L2 norm over the last axis, (..., d) -> (...) (eq. 5)."""
    return np.sqrt(np.einsum("...d,...d->...", y, y))


def energy_backward(d_energy: Array, y: Array, y_energy: Array) -> Array:
    """Gradient of `energy`, d_energy y / ‖y‖, 0 where the energy is 0: (..., d) (eq. 11)."""
    scale = np.divide(d_energy, y_energy, out=np.zeros_like(y_energy), where=y_energy > 0)
    return scale[..., None] * y


def bound_of(parameters: Mapping[str, Array]) -> float:
    """c as it is now, the length that no signal reaches; 0: there is no bound (eq. 6)."""
    return float(np.exp(parameters["log_bound"][0])) if "log_bound" in parameters else 0.0


def saturate(y: Array, bound: float) -> Array:
    """The signal that an answer (..., d) sends on: q y with q = 1 / √(1 + ‖y‖² / c²) (eq. 6).

    A small answer goes on as it is, a loud one is turned down: ‖q y‖ < c.
    """
    return y if bound == 0 else y / np.hypot(1, energy(y / bound))[..., None]


def saturate_backward(d_signal: Array, y: Array, bound: float) -> tuple[Array, Array]:
    """Gradients of `saturate` in y and in log c, (..., d) and (...) (eq. 15)."""
    if bound == 0:
        return d_signal, np.zeros_like(d_signal[..., 0])
    q = 1 / np.hypot(1, energy(y / bound))[..., None]
    s_over_c = q * y / bound
    along = np.einsum("...d,...d->...", s_over_c, d_signal)
    squared = np.einsum("...d,...d->...", s_over_c, s_over_c)  # ‖s‖² / c² = 1 - q²
    return q * (d_signal - s_over_c * along[..., None]), bound * along * squared


def logsumexp(logits: Array) -> Array:
    """log Σ exp over the last axis, stable for any finite logits, (..., K) -> (...)."""
    top = logits.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):  # log 0 = -inf is what an empty class means
        return np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]


def sigmoid(x: Array) -> Array:
    """Logistic function 1 / (1 + e^-x), elementwise; its derivative is σ(x) (1 - σ(x))."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def position_encoding(kind: str, first: int, n: int, d_node: int) -> Array:
    """Position encodings P_first … P_{first+n-1}, float64 (n, d) (MODEL.md, "Positions").

    Sine in even columns, cosine in odd ones. The kind "released" has exponent +2k/d where the
    standard one has -2k/d: a slip in the released code which its trained weights depend on.
    """
    encoding = np.zeros((n, d_node))
    if kind == "none":
        return encoding
    sign = {"sinusoidal": -1.0, "released": 1.0}[kind]
    even = np.arange(0, d_node, 2)
    angle = np.arange(first, first + n)[:, None] * 10000.0 ** (sign * even / d_node)
    encoding[:, 0::2] = np.sin(angle)
    encoding[:, 1::2] = np.cos(angle)[:, : d_node // 2]
    return encoding
