"""Ground floor: the small functions of the model, each beside its derivative.

Equation numbers refer to ``minibrillm/MODEL.md``. Row vectors throughout: a signal is a row
``a`` of width ``d`` and an edge acts as ``a @ W``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minibrillm.config import ModelConfig
    from minibrillm.counting import KneserNey

Array = np.ndarray

# How squares are added up for the norm of a gradient: in blocks, and in each block in lanes side by
# side, so that reference and kernels find the same number to the last bit.
SQUARES_BLOCK, SQUARES_LANES = 1 << 16, 16


# --------------------------------------------------------------------------- activation, energy


def gelu(h: Array) -> Array:
    """Exact Gaussian error linear unit, h Φ(h) (MODEL.md, eq. 4).

    Parameters
    ----------
    h : array, any shape
        Pre-activations.

    Returns
    -------
    array, the shape and dtype of ``h``
    """
    return h * ndtr(h)


def gelu_derivative(h: Array) -> Array:
    """Derivative of `gelu`, Φ(h) + h φ(h) (MODEL.md, eq. 12), elementwise."""
    return ndtr(h) + h * np.exp(-0.5 * h * h) * h.dtype.type(1 / np.sqrt(2 * np.pi))


def signal_bound(parameters: Mapping[str, Array]) -> float:
    """c, the length that no signal reaches; 0: there is no bound (MODEL.md, eq. 6)."""
    return float(np.exp(parameters["log_bound"][0])) if "log_bound" in parameters else 0.0


def saturate(y: Array, bound: float) -> Array:
    """The signal that an answer sends on, q y with q = 1 / √(1 + ‖y‖² / c²) (MODEL.md, eq. 6).

    A small answer goes on as it is, a loud one is turned down: ‖q y‖ < c.

    Parameters
    ----------
    y : array (..., d)
    bound : float
        c; 0: no bound, q = 1.
    """
    return y if bound == 0 else y / np.hypot(1, energy(y / bound))[..., None]


def saturate_backward(d_signal: Array, y: Array, bound: float) -> tuple[Array, Array]:
    """Gradients of `saturate` in y and in log c, (..., d) and (...) (MODEL.md, eq. 15)."""
    if bound == 0:
        return d_signal, np.zeros_like(d_signal[..., 0])
    q = 1 / np.hypot(1, energy(y / bound))[..., None]
    s = q * y / bound
    along = np.einsum("...d,...d->...", s, d_signal)
    squared = np.einsum("...d,...d->...", s, s)  # ‖s‖² / c² = 1 - q²
    return q * (d_signal - s * along[..., None]), bound * along * squared


def energy(y: Array) -> Array:
    """Energy of a signal: its L2 norm over the last axis, (..., d) -> (...) (MODEL.md, eq. 5)."""
    return np.sqrt(np.einsum("...d,...d->...", y, y))


def energy_backward(d_energy: Array, y: Array, y_energy: Array) -> Array:
    """Gradient of `energy`: d_energy y / ‖y‖, and 0 where the energy is 0 (MODEL.md, eq. 11).

    Parameters
    ----------
    d_energy, y_energy : array (...)
    y : array (..., d)

    Returns
    -------
    array (..., d)
    """
    scale = np.divide(d_energy, y_energy, out=np.zeros_like(y_energy), where=y_energy > 0)
    return scale[..., None] * y


def logsumexp(logits: Array) -> Array:
    """log Σ exp over the last axis, stable for any finite logits, (..., K) -> (...)."""
    top = logits.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):  # log 0 = -inf is what an empty class means
        return np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]


def sigmoid(x: Array) -> Array:
    """Logistic function 1 / (1 + e^-x), elementwise; its derivative is σ(x) (1 - σ(x))."""
    return 0.5 * (1 + np.tanh(0.5 * x))


# ---------------------------------------------------------------------------- position encodings


def position_encoding(kind: str, first: int, n: int, d_node: int) -> Array:
    """Position encodings P_first … P_{first+n-1} (MODEL.md, section "Positions").

    Parameters
    ----------
    kind : "none", "sinusoidal" or "released"
        ``released`` has exponent +2k/d where the standard one has -2k/d: a slip in the released
        code which its trained weights depend on.
    first, n : int
        First position and how many.
    d_node : int
        Width d.

    Returns
    -------
    float64 array (n, d): sine in even columns, cosine in odd ones; zeros for ``none``.
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


# ---------------------------------------------------------------------------------------- memory


class State(NamedTuple):
    """The memory of B streams standing at a node, before the next edge: O(d) however long the past.

    ``accumulator`` and ``normaliser`` are divided by exp(``log_scale``), so that neither can
    overflow; ``incoming`` is their quotient, the a_i that the next edge receives.
    """

    node: Array  # (B,) the node each stream stands at
    incoming: Array  # (B, d) a_i
    accumulator: Array  # (B, d) acc_i
    normaliser: Array  # (d,) z_i
    log_scale: float  # running maximum of α (variant "position"), else 0
    position: int  # i, the number of edges crossed
    recent: Array | None = None  # (B, ≤ prior_order - 1) the last tokens, if the prior needs them


class Schedule(NamedTuple):
    """How the memory moves over n edges; it depends on parameters, not on signals (eq. 7)."""

    keep: Array  # (n, d) λ, times the change of scale
    gain: Array  # (n,) g_j
    normaliser: Array  # (n + 1, d) z_i … z_{i+n}
    log_scale: float  # after the last edge


class Path(NamedTuple):
    """What `path_forward` leaves for `compete` and `path_backward`: B sequences, n edges each."""

    incoming: Array  # (B, n, d) a_i, what arrives at each source
    signal: Array  # (B, n, d) s_i, what leaves each edge of the path
    pre_activation: Array  # (B, n, d) h_i of those edges
    start: Array  # (B, d) pre-activation of r_0
    schedule: Schedule
    first: int  # position of the first edge; 0 unless a state was carried on
    final: State  # at the last token


class Competition(NamedTuple):
    """What `compete` found: losses in nats and, if asked for, gradients of their mean."""

    nll: Array  # (B, n) −log p(x_{i+1})
    d_incoming: Array  # (B, n, d), empty without gradients
    gradients: dict[str, Array]  # by parameter name, empty without gradients


class PriorRows(NamedTuple):
    """π of an n-gram prior at every position, and what its κ learn from (eq. 9b)."""

    log_prior: Array  # (B, n, V)
    change: Array  # (B, n, V) its derivative in κ: what the longer context changes
    length: Array  # (B, n) l, how many tokens of context the counts know


class Withheld(NamedTuple):
    """Counts as training must see them: without the very places that are to be foretold."""

    truth: Array  # (B, n) the tokens that follow
    bigrams: KneserNey  # of the training text, order 2: what the Hebbian prior was made of


class Rounding(NamedTuple):
    """Probabilities that are small are rounded at random where gradients are made (eq. 11b)."""

    below: float  # τ: what is smaller becomes 0 or τ
    draws: Array  # (B, n) one number in [0, 1) for each position


def round_at_random(p: Array, below: float, draws: Array) -> Array:
    """Round probabilities below τ to 0 or τ, each on average to itself (MODEL.md, eq. 11b).

    Systematic sampling: the small ones, as lengths p / τ side by side, make a line that begins at
    the draw; those in which a whole number lies become τ.

    Parameters
    ----------
    p : array (N, K)
    below : float
        τ > 0.
    draws : float64 array (N,)
        In [0, 1), one for each row.

    Returns
    -------
    array (N, K)
    """
    small = p < below
    lengths = np.where(small, p.astype(np.float64) / below, 0)
    line = np.cumsum(np.concatenate([draws[:, None], lengths], axis=1), axis=1)
    hit = np.diff(np.floor(line), axis=1)  # 0 or 1, for every length is below 1
    return np.where(small, (hit * below).astype(p.dtype), p)


def position_shares(weights: Array | None, n_positions: int) -> Array:
    """Share of each position in the mean loss, summing to 1: (B, n) or None -> float64 (B n,)."""
    if weights is None:
        return np.full(n_positions, 1 / n_positions)
    flat = np.asarray(weights, np.float64).reshape(-1)
    return flat / flat.sum()


def start_state(
    parameters: Mapping[str, Array], config: ModelConfig, nodes: Array
) -> tuple[State, Array]:
    """Memory of streams that begin at ``nodes`` (B,), and the pre-activation of r_0 (eq. 1-2)."""
    d = config.d_node
    dtype = next(iter(parameters.values())).dtype
    if config.start == "ones":
        h = np.zeros((len(nodes), d), dtype)
        r = np.ones((len(nodes), d), dtype)
    else:
        p = position_encoding(config.positions, 0, 1, d).astype(dtype)
        h = dtype.type(1 / d) + parameters["node_bias"][nodes] + p  # (B, d)
        r = gelu(h)
    recent = recent_tokens(config, None, nodes[:, None])
    if config.memory == "leaky":  # r_0 belongs to the memory
        return State(nodes, r, r, np.ones(d, dtype), 0.0, 0, recent), h
    return State(nodes, r, np.zeros_like(r), np.zeros(d, dtype), -np.inf, 0, recent), h


def recent_tokens(config: ModelConfig, before: Array | None, tokens: Array) -> Array | None:
    """The last tokens that an n-gram prior asks for, n - 1 of them; None for any other prior.

    Parameters
    ----------
    before : integer array (B, L), optional
        The last tokens so far.
    tokens : integer array (B, T)
        Those that were read after them.
    """
    if config.prior != "ngrams":
        return None
    tokens = tokens if before is None else np.concatenate([before, tokens], axis=1)
    return tokens[:, -(config.prior_order - 1) :]


def memory_schedule(
    config: ModelConfig,
    parameters: Mapping[str, Array],
    n: int,
    first: int,
    normaliser: Array,
    log_scale: float,
) -> Schedule:
    """Unroll acc_{i+1} = keep_i ⊙ acc_i + gain_i s_i for the three kinds of memory (eq. 7).

    ``chain``: λ = 0, g = 1, so a_i = s_{i-1}. ``leaky``: λ = sigmoid(ρ), g = 1.
    ``position``: λ = 1, g_j = exp(α_j), kept below 1 by a running maximum of α.

    Parameters
    ----------
    n, first : int
        Number of edges, and position of the first.
    normaliser : array (d,)
        z at the first edge.
    log_scale : float
        Logarithm of what accumulator and normaliser were divided by; -inf when both are 0.
    """
    dtype, d = normaliser.dtype, normaliser.shape[0]
    keep = np.zeros((n, d), dtype)
    gain = np.ones(n, dtype)
    if config.memory == "leaky":
        keep[:] = sigmoid(parameters["decay_logit"])
    elif config.memory == "position":
        alpha = parameters["position_logits"][first : first + n].astype(np.float64)
        top = np.maximum.accumulate(np.concatenate([[log_scale], alpha]))
        with np.errstate(invalid="ignore"):  # nothing remembered yet: -inf - -inf, weight 0
            keep[:] = np.nan_to_num(np.exp(top[:-1] - top[1:]))[:, None]
        gain[:] = np.exp(alpha - top[1:])
        log_scale = float(top[-1])
    z = np.empty((n + 1, d), dtype)
    z[0] = normaliser
    for i in range(n):
        z[i + 1] = keep[i] * z[i] + gain[i]
    return Schedule(keep, gain, z, log_scale)


def memory_schedule_backward(
    config: ModelConfig,
    parameters: Mapping[str, Array],
    schedule: Schedule,
    first: int,
    da_dot_a: Array,
    d_keep: Array,
    d_gain: Array,
) -> dict[str, Array]:
    """Gradients of λ or α from those of the unrolled schedule (eq. 17-19).

    Parameters
    ----------
    da_dot_a : array (n, d)
        Σ over sequences of da_i ⊙ a_i.
    d_keep : array (d,)
        Σ over sequences and edges of dacc_{i+1} ⊙ acc_i.
    d_gain : array (n,)
        Σ over sequences of ⟨dacc_{i+1}, s_i⟩.

    Returns
    -------
    dict with ``decay_logit`` (d,), or ``position_logits`` (T_max,), or nothing
    """
    n = len(schedule.gain)
    z, keep = schedule.normaliser, schedule.keep
    sent = -da_dot_a[1:] / z[1:n]  # a_i = acc_i / z_i, so this reaches z_i, (n - 1, d)
    dz = np.zeros_like(keep)  # row i: dz_{i+1}
    for i in reversed(range(n - 1)):
        dz[i] = keep[i + 1] * dz[i + 1] + sent[i]
    d_keep = d_keep + (dz * z[:n]).sum(axis=0)
    d_gain = d_gain + dz.sum(axis=1)
    if config.memory == "leaky":
        decay = keep[0]
        return {"decay_logit": d_keep * decay * (1 - decay)}
    if config.memory == "position":
        d_alpha = np.zeros_like(parameters["position_logits"])
        d_alpha[first : first + n] = d_gain * schedule.gain
        return {"position_logits": d_alpha}
    return {}


# -------------------------------------------------------------------------------------- grouping


class Groups(NamedTuple):
    """Places with equal labels, side by side: group k is ``order[start[k]:start[k + 1]]``."""

    label: Array  # (G,) the distinct labels, ascending
    start: Array  # (G + 1,)
    order: Array  # (N,) indices into the flat labels; equal labels keep their order


def group_by(labels: Array) -> Groups:
    """Group the flat positions of ``labels`` (any shape, integers) by value; order is stable."""
    flat = labels.ravel()
    # A radix sort serves 16-bit integers: several times faster, the same result.
    least = flat.min() if flat.size else 0
    small = flat.size > 0 and flat.max() - least < 2**16
    order = np.argsort((flat - least).astype(np.uint16) if small else flat, kind="stable")
    ordered = flat[order]
    start = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    label = ordered[start]
    return Groups(label, np.append(start, flat.size), order)
