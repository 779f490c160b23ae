"""The functions of `minibrillm.reference`, same names and arguments, compiled with Numba.

What differs is the order of the work, never the result (float32 to 1e-4, float64 to 1e-10):

* The path pass runs in parallel over sequences.
* The competition runs in parallel over *bins* of source nodes. The edges that leave a source are
  packed side by side into one matrix (d, K d), so that one matrix product answers for a whole
  tile of positions; activation, derivative and energy are found in one sweep while the tile is
  in cache.
* The number of bins is fixed and every bin adds up in a fixed order: the same bits come out
  whatever the number of threads.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from numba import prange, types
from numba.extending import overload
from threadpoolctl import ThreadpoolController

from minibrillm.functional import (
    Competition,
    Path,
    State,
    gelu_derivative,
    group_by,
    memory_schedule,
    memory_schedule_backward,
    position_encoding,
    start_state,
)

if TYPE_CHECKING:
    from minibrillm.config import ModelConfig
    from minibrillm.graph import TokenGraph

Array = np.ndarray
Parameters = Mapping[str, Array]

# Sums may be re-ordered and fused so that loops vectorise; NaN and infinity keep their meaning.
_FLAGS = {"contract", "reassoc", "nsz"}
_BINS = 8  # fixed: results must not depend on the number of threads
_TILE = 1 << 17  # pre-activations in one tile of positions, to stay in a core's L2 cache
_MIN_ROWS, _MAX_ROWS = 16, 256  # positions in a tile: a matrix product needs some to be fast


def _jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``numba.njit`` with a disk cache where the machine has a place for one."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, error_model="numpy", **options)(function)
        except RuntimeError:  # no writable place for a cache: compile anew in each process
            return numba.njit(error_model="numpy", **options)(function)

    return decorate


def cache_folder() -> str:
    """Where compiled kernels are kept between processes."""
    stats: Any = getattr(_run_adamw, "stats", None)
    return str(getattr(stats, "cache_path", None) or "none: compiled in each process")


# ------------------------------------------------------------------------- one caller at a time

_LOCK = threading.RLock()
_BLAS: list[ThreadpoolController] = []


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock (two Python threads in a parallel kernel abort under Numba's workqueue layer)
    and keep BLAS at one thread (the kernels bring their own)."""
    with _LOCK:
        if not _BLAS:
            import scipy.linalg.cython_blas  # noqa: F401  # the BLAS that np.dot calls in a kernel

            _BLAS.append(ThreadpoolController())
        with _BLAS[0].limit(limits=1, user_api="blas"):
            yield


def _serial(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _alone():
            return function(*args, **kwargs)

    return wrapper


# ----------------------------------------------------------------------- activation, by precision

_F = np.float32
_TINY = _F(1e-30)
_LOG2E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_HALF, _ONE, _EXP_FLOOR = _F(0.5), _F(1.0), _F(-87.0)
_E2, _E3, _E4, _E5, _E6 = _F(0.5), _F(1 / 6), _F(1 / 24), _F(1 / 120), _F(1 / 720)
# Abramowitz & Stegun 7.1.26 for erf(x), |error| < 1.5e-7; x = |h| / √2.
_T = _F(0.3275911 / math.sqrt(2))
_A1, _A2, _A3 = _F(0.254829592 / 2), _F(-0.284496736 / 2), _F(1.421413741 / 2)
_A4, _A5 = _F(-1.453152027 / 2), _F(1.061405429 / 2)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_DENSITY32 = _F(_DENSITY)
_SQRT_HALF = math.sqrt(0.5)


def _exp(x: Any) -> Any:
    """e^x for x ≤ 0; in float32 without a branch, so that loops over it vectorise."""
    return math.exp(x)  # without the compiler; compiled, the overload below takes its place


def _cdf_pdf(h: Any) -> Any:
    """Φ(h) and φ(h); in float32 by a branch-free rational approximation."""
    return 0.5 * math.erfc(-h * _SQRT_HALF), math.exp(-0.5 * h * h) * _DENSITY


@overload(_exp, inline="always")
def _exp_overload(x: Any) -> Any:
    if x == types.float32:

        def single(x: Any) -> Any:
            x = max(x, _EXP_FLOOR)
            k = np.float32(math.floor(x * _LOG2E + _HALF))
            f = x - k * _LN2_HIGH - k * _LN2_LOW
            p = _ONE + f * (_ONE + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
            return p * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)

        return single

    def double(x: Any) -> Any:
        return math.exp(x)

    return double


@overload(_cdf_pdf, inline="always")
def _cdf_pdf_overload(h: Any) -> Any:
    if h == types.float32:

        def single(h: Any) -> Any:
            x = abs(h)
            e = _exp(-_HALF * x * x)
            t = _ONE / (_ONE + _T * x)
            tail = e * t * (_A1 + t * (_A2 + t * (_A3 + t * (_A4 + t * _A5))))
            cdf = tail if h < np.float32(0) else _ONE - tail
            return cdf, e * _DENSITY32

        return single

    def double(h: Any) -> Any:
        return 0.5 * math.erfc(-h * _SQRT_HALF), math.exp(-0.5 * h * h) * _DENSITY

    return double


@_jit(fastmath=_FLAGS)
def gelu_sweep(h: Array, gelu: Array, product: Array) -> None:
    """gelu(h) and gelu(h) gelu'(h) of flat arrays, as the kernels compute them."""
    for j in range(h.size):
        cdf, pdf = _cdf_pdf(h[j])
        y = h[j] * cdf
        gelu[j] = y
        product[j] = y * (cdf + h[j] * pdf)


# ------------------------------------------------------------------------------ arrays for kernels


class _Edges(NamedTuple):
    """The arrays of either kind of edge under common names.

    ``shared``: ``main`` holds the slots, the others are empty. ``three_part``: ``main`` is the
    axon; a private edge adds ``private`` (the synapse), every target its ``dendrite``.
    """

    main_weight: Array
    main_bias: Array
    dendrite_weight: Array
    dendrite_bias: Array
    private_weight: Array
    private_bias: Array


def _edges(arrays: Mapping[str, Array], config: ModelConfig) -> _Edges:
    if config.edges == "shared":
        weight, bias = arrays["edge_weight"], arrays["edge_bias"]
        return _Edges(weight, bias, weight[:0], bias[:0], weight[:0], bias[:0])
    names = [f"{part}_{kind}" for part in ("axon", "dendrite", "synapse") for kind in _KINDS]
    return _Edges(*(arrays[name] for name in names))


_KINDS = ("weight", "bias")


class _Prior(NamedTuple):
    """π: by source the logs of seen bigrams, and back-off and unigram for the rest."""

    indptr: Array
    targets: Array
    log_probability: Array
    log_backoff: Array
    log_unigram: Array
    log_unseen: Array  # (V,) what the class without private edges weighs


def _prior(graph: TokenGraph, config: ModelConfig) -> _Prior:
    n, prior = graph.n_nodes, graph.prior
    unseen = graph.log_unseen_weight if config.edges == "shared" else np.zeros(n)
    if prior is None:
        none = np.zeros(0, np.int64)
        return _Prior(
            np.zeros(n + 1, np.int64), none, np.zeros(0), np.zeros(n), np.zeros(n), unseen
        )
    return _Prior(
        prior.indptr,
        prior.targets,
        prior.log_probability,
        prior.log_backoff,
        prior.log_unigram,
        unseen,
    )


def _indices(graph: TokenGraph, config: ModelConfig, tokens: Array) -> tuple[Array, Array, Array]:
    """Rows of `_Edges` that make up each edge of the path, (B, n) each; -1: no such part."""
    u, v = tokens[:, :-1], tokens[:, 1:]
    edge = graph.edge(u, v)
    if config.edges == "shared":
        none = np.full_like(edge, -1)
        return edge + 1, none, none
    return np.ascontiguousarray(u), np.ascontiguousarray(v), edge


# --------------------------------------------------------------------------------------- path pass


@_jit(fastmath=_FLAGS)
def _add_product(a: Array, weight: Array, bias: Array, h: Array) -> None:
    """h += a W + b."""
    d = a.size
    for o in range(d):
        h[o] += bias[o]
    for i in range(d):
        for o in range(d):
            h[o] += a[i] * weight[i, o]


@_jit(fastmath=_FLAGS)
def _add_transposed(dh: Array, weight: Array, da: Array) -> None:
    """da += dh Wᵀ."""
    for i in range(da.size):
        total = da[i]
        for o in range(dh.size):
            total += dh[o] * weight[i, o]
        da[i] = total


@_jit(parallel=True, fastmath=_FLAGS)
def _run_path(
    edges: _Edges,
    main: Array,
    dendrite: Array,
    private: Array,
    keep: Array,
    gain: Array,
    z: Array,
    encoding: Array,
    a: Array,
    acc: Array,
    incoming: Array,
    pre_activation: Array,
    signal: Array,
) -> None:
    n_streams, n, d = incoming.shape
    for b in prange(n_streams):
        for i in range(n):
            h = pre_activation[b, i]
            h[:] = encoding[i]
            _add_product(a[b], edges.main_weight[main[b, i]], edges.main_bias[main[b, i]], h)
            v, e = dendrite[b, i], private[b, i]
            if v >= 0:
                _add_product(a[b], edges.dendrite_weight[v], edges.dendrite_bias[v], h)
            if e >= 0:
                _add_product(a[b], edges.private_weight[e], edges.private_bias[e], h)
            for o in range(d):
                cdf, _ = _cdf_pdf(h[o])
                s = h[o] * cdf
                signal[b, i, o] = s
                incoming[b, i, o] = a[b, o]
                acc[b, o] = keep[i, o] * acc[b, o] + gain[i] * s
                a[b, o] = acc[b, o] / z[i + 1, o]


@_serial
def path_forward(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    state: State | None = None,
) -> Path:
    """As `minibrillm.reference.path_forward`."""
    n_streams, n, d = tokens.shape[0], tokens.shape[1] - 1, config.d_node
    fresh, start = start_state(parameters, config, tokens[:, 0])
    state = fresh if state is None else state
    dtype = state.incoming.dtype
    schedule = memory_schedule(
        config, parameters, n, state.position, state.normaliser, state.log_scale
    )
    encoding = position_encoding(
        config.positions, state.position + config.first_position, n, d
    ).astype(dtype)
    incoming = np.empty((n_streams, n, d), dtype)
    pre_activation, signal = np.empty_like(incoming), np.empty_like(incoming)
    a, acc = state.incoming.copy(), state.accumulator.copy()
    _run_path(
        _edges(parameters, config),
        *_indices(graph, config, tokens),
        schedule.keep,
        schedule.gain,
        schedule.normaliser,
        encoding,
        a,
        acc,
        incoming,
        pre_activation,
        signal,
    )
    final = State(
        tokens[:, -1], a, acc, schedule.normaliser[n], schedule.log_scale, state.position + n
    )
    return Path(incoming, signal, pre_activation, start, schedule, state.position, final)


@_jit(parallel=True, fastmath=_FLAGS)
def _run_path_back(
    edges: _Edges,
    main: Array,
    dendrite: Array,
    private: Array,
    keep: Array,
    gain: Array,
    z: Array,
    incoming: Array,
    signal: Array,
    pre_activation: Array,
    d_incoming: Array,
    dh: Array,
    d_acc: Array,
    d_keep: Array,
    d_gain: Array,
) -> None:
    n_streams, n, d = incoming.shape
    for b in prange(n_streams):
        for i in range(n - 1, -1, -1):
            da = d_incoming[b, i]
            total = d_acc[b, 0] * signal[b, i, 0]
            for o in range(1, d):
                total += d_acc[b, o] * signal[b, i, o]
            d_gain[b, i] = total
            for o in range(d):
                d_keep[b, o] += d_acc[b, o] * incoming[b, i, o] * z[i, o]
                h = pre_activation[b, i, o]
                cdf, pdf = _cdf_pdf(h)
                dh[b, i, o] = gain[i] * d_acc[b, o] * (cdf + h * pdf)
            _add_transposed(dh[b, i], edges.main_weight[main[b, i]], da)
            v, e = dendrite[b, i], private[b, i]
            if v >= 0:
                _add_transposed(dh[b, i], edges.dendrite_weight[v], da)
            if e >= 0:
                _add_transposed(dh[b, i], edges.private_weight[e], da)
            if i > 0:
                for o in range(d):
                    d_acc[b, o] = keep[i, o] * d_acc[b, o] + da[o] / z[i, o]


@_jit(fastmath=_FLAGS)
def _add_outer_one(a: Array, dh: Array, d_weight: Array, d_bias: Array) -> None:
    """d_weight += aᵀ dh, d_bias += dh."""
    for i in range(a.size):
        for o in range(dh.size):
            d_weight[i, o] += a[i] * dh[o]
    for o in range(dh.size):
        d_bias[o] += dh[o]


@_jit(parallel=True, fastmath=_FLAGS)
def _add_outer(
    label: Array, start: Array, order: Array, a: Array, dh: Array, d_weight: Array, d_bias: Array
) -> None:
    """Add a_rᵀ dh_r of every row r to the edge part it belongs to; one part, one thread."""
    for k in prange(label.size):
        part = label[k]
        if part >= 0:
            for r in order[start[k] : start[k + 1]]:
                _add_outer_one(a[r], dh[r], d_weight[part], d_bias[part])


@_serial
def path_backward(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    path: Path,
    competition: Competition,
) -> dict[str, Array]:
    """As `minibrillm.reference.path_backward`."""
    gradients, d_incoming = competition.gradients, competition.d_incoming.copy()
    keep, gain, z = path.schedule.keep, path.schedule.gain, path.schedule.normaliser
    n_streams, n, d = path.incoming.shape
    dh = np.empty_like(d_incoming)
    d_acc, d_keep = np.zeros_like(path.start), np.zeros_like(path.start)
    d_gain = np.empty((n_streams, n), dh.dtype)
    indices = _indices(graph, config, tokens)
    _run_path_back(
        _edges(parameters, config),
        *indices,
        keep,
        gain,
        z,
        path.incoming,
        path.signal,
        path.pre_activation,
        d_incoming,
        dh,
        d_acc,
        d_keep,
        d_gain,
    )
    edges = _edges(gradients, config)
    a, flat_dh = path.incoming.reshape(-1, d), dh.reshape(-1, d)
    pairs = (edges[0:2], edges[2:4], edges[4:6])
    for index, (d_weight, d_bias) in zip(indices, pairs, strict=True):
        if len(d_weight):
            _add_outer(*group_by(index), a, flat_dh, d_weight, d_bias)
    if path.first == 0 and config.start == "node" and n > 0:
        d_start = d_incoming[:, 0]
        if config.memory == "leaky":
            d_start = d_start + keep[0] * d_acc
        np.add.at(gradients["node_bias"], tokens[:, 0], d_start * gelu_derivative(path.start))
    da_dot_a = np.einsum("bnd,bnd->nd", d_incoming, path.incoming)
    gradients.update(
        memory_schedule_backward(
            config,
            parameters,
            path.schedule,
            path.first,
            da_dot_a,
            d_keep.sum(axis=0),
            d_gain.sum(axis=0),
        )
    )
    return gradients


# -------------------------------------------------------------------------------- competition pass


class _Work(NamedTuple):
    """Positions sorted by source, and the sources by bin."""

    signals: Array  # (M, d)
    encoding: Array  # (M, d), or (0, d) where there is none
    true_column: Array  # (M,)
    true_prior: Array  # (M,)
    columns: Array  # (M, C) of sampled candidates; C = 0: full softmax
    column_priors: Array  # (M, C)
    source: Array  # (G,)
    start: Array  # (G + 1,) first position of each source
    bin_start: Array  # (_BINS + 1,) first source of each bin
    share: Array  # (1,) weight of one position in the mean loss


@_jit()
def _deal(cost: Array, n_bins: int) -> tuple[Array, Array]:
    """Deal groups out to bins, heaviest first, each to the lightest half, quarter, eighth …

    So any number of threads that share the bins evenly has an even load.
    """
    bin_of = np.zeros(cost.size, np.int64)
    order = np.argsort(-cost)
    load = np.zeros(2 * n_bins)  # a binary tree: the children of node k are 2k and 2k + 1
    for g in order:
        k = 1
        while k < n_bins:
            k = 2 * k if load[2 * k] <= load[2 * k + 1] else 2 * k + 1
            load[k] += cost[g]
        bin_of[g] = k - n_bins
    start = np.zeros(n_bins + 1, np.int64)
    for g in range(cost.size):
        start[bin_of[g] + 1] += 1
    start = np.cumsum(start)
    group, fill = np.empty(cost.size, np.int64), start.copy()
    for g in order:
        group[fill[bin_of[g]]] = g
        fill[bin_of[g]] += 1
    return start, group


@_jit()
def _pack(edges: _Edges, u: int, low: int, targets: Array, weight: Array, bias: Array) -> None:
    """Lay the edges that leave u side by side: weight (d, K, d), bias (K, d)."""
    n_columns, d = bias.shape
    if edges.dendrite_weight.shape[0] == 0:
        for k in range(n_columns):
            slot = low + k + 1 if k < targets.size else 0
            bias[k] = edges.main_bias[slot]
            for i in range(d):
                weight[i, k] = edges.main_weight[slot, i]
        return
    for i in range(d):
        for k in range(n_columns):
            for o in range(d):
                weight[i, k, o] = edges.main_weight[u, i, o] + edges.dendrite_weight[k, i, o]
    for k in range(n_columns):
        for o in range(d):
            bias[k, o] = edges.main_bias[u, o] + edges.dendrite_bias[k, o]
    for e in range(targets.size):
        k = targets[e]
        for o in range(d):
            bias[k, o] += edges.private_bias[low + e, o]
        for i in range(d):
            for o in range(d):
                weight[i, k, o] += edges.private_weight[low + e, i, o]


@_jit()
def _unpack(
    d_edges: _Edges,
    common_weight: Array,
    common_bias: Array,
    u: int,
    low: int,
    targets: Array,
    weight: Array,
    bias: Array,
) -> None:
    """The way back of `_pack`, for gradients. What several sources share (dendrites, the shared
    edge) is added to the bin's own ``common`` arrays."""
    n_columns, d = bias.shape
    if d_edges.dendrite_weight.shape[0] == 0:
        for k in range(targets.size):
            d_edges.main_bias[low + k + 1] = bias[k]
            for i in range(d):
                d_edges.main_weight[low + k + 1, i] = weight[i, k]
        for o in range(d):
            common_bias[0, o] += bias[n_columns - 1, o]
            for i in range(d):
                common_weight[0, i, o] += weight[i, n_columns - 1, o]
        return
    for i in range(d):
        total = d_edges.main_weight[u, i]
        for k in range(n_columns):
            for o in range(d):
                total[o] += weight[i, k, o]
                common_weight[k, i, o] += weight[i, k, o]
    for k in range(n_columns):
        for o in range(d):
            d_edges.main_bias[u, o] += bias[k, o]
            common_bias[k, o] += bias[k, o]
    for e in range(targets.size):
        d_edges.private_bias[low + e] = bias[targets[e]]
        for i in range(d):
            d_edges.private_weight[low + e, i] = weight[i, targets[e]]


@_jit()
def _weigh_columns(prior: _Prior, u: int, targets: Array, classes: bool, out: Array) -> None:
    """Log weight of every column at u in the full softmax (eq. 9)."""
    low, high = prior.indptr[u], prior.indptr[u + 1]
    if classes:  # private edges, then the class of all other nodes
        for k in range(targets.size):
            out[k] = prior.log_backoff[u] + prior.log_unigram[targets[k]]
        k = 0
        for j in range(low, high):  # both lists ascend
            while k < targets.size and targets[k] < prior.targets[j]:
                k += 1
            if k < targets.size and targets[k] == prior.targets[j]:
                out[k] = prior.log_probability[j]
        out[targets.size] = prior.log_unseen[u]
        return
    for v in range(out.size):
        out[v] = prior.log_backoff[u] + prior.log_unigram[v]
    for j in range(low, high):
        out[prior.targets[j]] = prior.log_probability[j]


@_jit(fastmath=_FLAGS)
def _answer(h: Array, bias: Array, squares: Array, e: Array) -> None:
    """One position: pre-activations h (K d) become gelu gelu', energies go to e (K,)."""
    d = h.size // e.size
    for j in range(h.size):
        x = h[j] + bias[j]
        cdf, pdf = _cdf_pdf(x)
        y = x * cdf
        squares[j] = y * y
        h[j] = y * (cdf + x * pdf)
    for k in range(e.size):
        total = squares[k * d]
        for o in range(1, d):
            total += squares[k * d + o]
        e[k] = math.sqrt(total)


@_jit(fastmath=_FLAGS)
def _add_to_all(h: Array, common: Array) -> None:
    """Add what the columns share (d,) to the pre-activations of each, h (K d)."""
    d = common.size
    for k in range(h.size // d):
        for o in range(d):
            h[k * d + o] += common[o]


@_jit(fastmath=_FLAGS)
def _scale_columns(h: Array, g: Array, e: Array, share: Any) -> None:
    """gelu gelu' (K d) becomes dh, times dloss/dE over E (eq. 11-12)."""
    d = h.size // e.size
    for k in range(e.size):
        # y = 0 where the energy is 0, so any finite scale gives 0.
        scale = g[k] * share / max(e[k], _TINY)
        for o in range(d):
            h[k * d + o] *= scale


@_jit()
def _candidate_weights(columns: Array, priors: Array, out: Array) -> None:
    """Log weight of every column when only candidates compete: several may share a column."""
    out[:] = -np.inf
    for c in range(columns.size):
        k, x = columns[c], priors[c]
        high, low = max(out[k], x), min(out[k], x)
        out[k] = high + math.log1p(math.exp(low - high))


@_jit(fastmath=_FLAGS)
def _softmax(e: Array, weights: Array, p: Array) -> float:
    """p = softmax(e + weights); returns the log of its normaliser."""
    top = e[0] + weights[0]
    for k in range(e.size):
        p[k] = e[k] + weights[k]
        top = max(top, p[k])
    for k in range(e.size):
        p[k] = _exp(p[k] - top)
    total = p[0]
    for k in range(1, e.size):
        total += p[k]
    for k in range(e.size):
        p[k] /= total
    return top + math.log(total)


@_jit(parallel=True, fastmath=_FLAGS)
def _run_competition(
    edges: _Edges,
    d_edges: _Edges,
    prior: _Prior,
    work: _Work,
    indptr: Array,
    targets: Array,
    common_weight: Array,
    common_bias: Array,
    scratch: Array,
    gradient: bool,
    nll: Array,
    d_signals: Array,
) -> None:
    d = work.signals.shape[1]
    classes = edges.dendrite_weight.shape[0] == 0
    n_nodes = indptr.size - 1
    for b in prange(_BINS):
        memory = scratch[numba.get_thread_id()]
        for g in range(work.bin_start[b], work.bin_start[b + 1]):
            u = work.source[g]
            low = indptr[u]
            own = targets[low : indptr[u + 1]]
            n_columns = own.size + 1 if classes else n_nodes
            width = n_columns * d
            # Carve the bin's scratch memory: packed edges, their gradients, one tile.
            at = 0
            weight = memory[at : at + d * width].reshape(d, width)
            at += d * width
            d_weight = memory[at : at + d * width].reshape(d, width)
            at += d * width
            part = memory[at : at + d * width].reshape(d, width)
            at += d * width
            bias = memory[at : at + width]
            d_bias = memory[at + width : at + 2 * width]
            squares = memory[at + 2 * width : at + 3 * width]
            at += 3 * width
            e = memory[at : at + n_columns]
            p = memory[at + n_columns : at + 2 * n_columns]
            log_weight = memory[at + 2 * n_columns : at + 3 * n_columns]
            at += 3 * n_columns
            tile = memory[at:]

            _pack(edges, u, low, own, weight.reshape(d, n_columns, d), bias.reshape(n_columns, d))
            _weigh_columns(prior, u, own, classes, log_weight)
            if gradient:
                d_bias[:] = 0
            rows = max(_MIN_ROWS, min(_MAX_ROWS, _TILE // width))
            for first in range(work.start[g], work.start[g + 1], rows):
                last = min(first + rows, work.start[g + 1])
                h = tile[: (last - first) * width].reshape(last - first, width)
                a = work.signals[first:last]
                np.dot(a, weight, h)
                for r in range(first, last):
                    row = h[r - first]
                    if work.encoding.shape[0] > 0:
                        _add_to_all(row, work.encoding[r])
                    _answer(row, bias, squares, e)
                    if work.columns.shape[1] > 0:
                        _candidate_weights(work.columns[r], work.column_priors[r], log_weight)
                    normaliser = _softmax(e, log_weight, p)
                    true = work.true_column[r]
                    nll[r] = normaliser - e[true] - work.true_prior[r]
                    if gradient:
                        p[true] -= 1
                        _scale_columns(row, p, e, work.share[0])
                if gradient:
                    np.dot(h, weight.T, d_signals[first:last])
                    if first == work.start[g]:
                        np.dot(a.T, h, d_weight)
                    else:
                        np.dot(a.T, h, part)
                        for i in range(d):
                            for j in range(width):
                                d_weight[i, j] += part[i, j]
                    for r in range(last - first):
                        for j in range(width):
                            d_bias[j] += h[r, j]
            if gradient:
                _unpack(
                    d_edges,
                    common_weight[b],
                    common_bias[b],
                    u,
                    low,
                    own,
                    d_weight.reshape(d, n_columns, d),
                    d_bias.reshape(n_columns, d),
                )


def _work(
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    incoming: Array,
    first: int,
    candidates: Array | None,
) -> tuple[_Work, Array]:
    """Sort the positions by bin and source, and look up the column of each target.

    Returns the work and the order: sorted position k was flat position ``order[k]``.
    """
    _, n, d = incoming.shape
    dtype, three_part = incoming.dtype, config.edges == "three_part"
    groups = group_by(tokens[:, :-1])
    sizes = np.diff(groups.start)
    columns = graph.n_nodes if three_part else graph.out_degree[groups.label] + 1
    # A source costs its positions, and the packing of its edges, which is worth about 16 of them.
    bin_start, dealt = _deal(columns * (sizes + 16.0), _BINS)
    start = np.concatenate([[0], np.cumsum(sizes[dealt])])
    shift = np.repeat(groups.start[dealt] - start[:-1], sizes[dealt])
    order = groups.order[np.arange(start[-1]) + shift]

    u, v = tokens[:, :-1].ravel()[order], tokens[:, 1:].ravel()[order]
    chosen = np.empty((len(u), 0), np.int64)
    if candidates is not None:
        chosen = candidates.reshape(len(u), -1)[order]
    encoding = np.empty((0, d), dtype)
    if config.positions != "none":
        rows = position_encoding(config.positions, first + config.first_position, n, d)
        encoding = rows.astype(dtype)[order % n]

    def column(source: Array, target: Array) -> Array:
        return target if three_part else graph.column(source, target)

    work = _Work(
        incoming.reshape(-1, d)[order],
        encoding,
        column(u, v),
        graph.log_prior(u, v).astype(dtype),
        column(u[:, None], chosen),
        graph.log_prior(u[:, None], chosen).astype(dtype),
        groups.label[dealt],
        start,
        bin_start,
        np.full(1, 1 / len(u), dtype),
    )
    return work, order


# Where the packed edges of a source outgrow a core's cache, packing them source by source costs
# more than it saves. Then the parts of an edge stay apart: the dendrites of all V targets are one
# matrix, the same for every position, and axon and synapses are added on top.

_CHUNK = 2048  # columns of the dendrites' matrix that are worked on at a time
_PARTS_ABOVE = 1 << 18  # elements of the packed edges of one source, V d²


@_jit(parallel=True)
def _pack_dendrites(weight: Array, packed: Array) -> None:
    """(V, d, d) into chunks of targets, each a matrix (d, chunk · d)."""
    n_nodes, d, _ = weight.shape
    chunk = max(1, _CHUNK // d)
    for c in prange((n_nodes + chunk - 1) // chunk):
        first, last = c * chunk, min((c + 1) * chunk, n_nodes)
        matrix = packed[first * d * d : last * d * d].reshape(d, last - first, d)
        for i in range(d):
            for v in range(first, last):
                matrix[i, v - first] = weight[v, i]


@_jit(parallel=True)
def _unpack_dendrites(common: Array, d_weight: Array) -> None:
    """Sum the bins' gradients (_BINS, V d d), packed, into (V, d, d)."""
    n_nodes, d, _ = d_weight.shape
    chunk = max(1, _CHUNK // d)
    for c in prange((n_nodes + chunk - 1) // chunk):
        first, last = c * chunk, min((c + 1) * chunk, n_nodes)
        for b in range(common.shape[0]):
            matrix = common[b, first * d * d : last * d * d].reshape(d, last - first, d)
            for i in range(d):
                for v in range(first, last):
                    for o in range(d):
                        d_weight[v, i, o] += matrix[i, v - first, o]


@_jit(parallel=True, fastmath=_FLAGS)
def _run_parts(
    edges: _Edges,
    d_edges: _Edges,
    prior: _Prior,
    work: _Work,
    indptr: Array,
    targets: Array,
    dendrites: Array,
    common_weight: Array,
    common_bias: Array,
    scratch: Array,
    rows: int,
    gradient: bool,
    nll: Array,
    d_signals: Array,
) -> None:
    d = work.signals.shape[1]
    n_nodes = indptr.size - 1
    chunk = max(1, _CHUNK // d)
    dendrite_bias = edges.dendrite_bias.reshape(-1)
    for b in prange(_BINS):
        memory = scratch[numba.get_thread_id()]
        size = rows * n_nodes * d
        tile = memory[:size]
        e = memory[size : size + rows * n_nodes].reshape(rows, n_nodes)
        at = size + rows * n_nodes
        p, log_weight = memory[at : at + n_nodes], memory[at + n_nodes : at + 2 * n_nodes]
        at += 2 * n_nodes
        axon = memory[at : at + rows * d].reshape(rows, d)
        part = memory[at + rows * d : at + 2 * rows * d]
        at += 2 * rows * d
        squares = memory[at : at + chunk * d]
        d_matrix = memory[at + chunk * d : at + chunk * d + chunk * d * d]

        g = work.bin_start[b]
        end = work.start[work.bin_start[b + 1]]
        known = -1  # source that log_weight belongs to
        for first in range(work.start[g], end, rows):
            last = min(first + rows, end)
            n = last - first
            a = work.signals[first:last]
            while work.start[g + 1] <= first:
                g += 1
            k = g
            for r in range(first, last):  # the axon's part of every pre-activation
                if r == work.start[k + 1]:
                    k += 1
                u = work.source[k]
                axon[r - first] = 0
                if work.encoding.shape[0] > 0:
                    axon[r - first] = work.encoding[r]
                _add_product(
                    a[r - first], edges.main_weight[u], edges.main_bias[u], axon[r - first]
                )

            for low in range(0, n_nodes, chunk):
                high = min(low + chunk, n_nodes)
                width = (high - low) * d
                h = tile[n * low * d : n * high * d].reshape(n, width)
                np.dot(a, dendrites[low * d * d : high * d * d].reshape(d, width), h)
                k = g
                for r in range(n):
                    if first + r == work.start[k + 1]:
                        k += 1
                    u = work.source[k]
                    for j in range(*_own(indptr, targets, u, low, high)):
                        at_target = (targets[j] - low) * d
                        _add_product(
                            a[r],
                            edges.private_weight[j],
                            edges.private_bias[j],
                            h[r, at_target : at_target + d],
                        )
                    _add_to_all(h[r], axon[r])
                    bias = dendrite_bias[low * d : high * d]
                    _answer(h[r], bias, squares[:width], e[r, low:high])

            k = g
            for r in range(first, last):
                if r == work.start[k + 1]:
                    k += 1
                u = work.source[k]
                if work.columns.shape[1] > 0:
                    _candidate_weights(work.columns[r], work.column_priors[r], log_weight)
                elif u != known:
                    _weigh_columns(prior, u, targets[:0], False, log_weight)
                    known = u
                true = work.true_column[r]
                row = e[r - first]
                nll[r] = _softmax(row, log_weight, p) - row[true] - work.true_prior[r]
                if gradient:
                    p[true] -= 1
                    for v in range(n_nodes):
                        row[v] = p[v] * work.share[0] / max(row[v], _TINY)

            if not gradient:
                continue
            da = d_signals[first:last]
            da[:] = 0
            axon[:] = 0  # from here on: the gradient that reaches the axon
            for low in range(0, n_nodes, chunk):
                high = min(low + chunk, n_nodes)
                width = (high - low) * d
                h = tile[n * low * d : n * high * d].reshape(n, width)
                d_bias = common_bias[b, low * d : high * d]
                k = g
                for r in range(n):
                    if first + r == work.start[k + 1]:
                        k += 1
                    u = work.source[k]
                    for v in range(low, high):
                        for o in range(d):
                            j = (v - low) * d + o
                            h[r, j] *= e[r, v]
                            axon[r, o] += h[r, j]
                    for j in range(width):
                        d_bias[j] += h[r, j]
                    for j in range(*_own(indptr, targets, u, low, high)):
                        dh = h[r, (targets[j] - low) * d : (targets[j] - low + 1) * d]
                        _add_transposed(dh, edges.private_weight[j], da[r])
                        _add_outer_one(a[r], dh, d_edges.private_weight[j], d_edges.private_bias[j])
                matrix = dendrites[low * d * d : high * d * d].reshape(d, width)
                d_part = part[: n * d].reshape(n, d)
                np.dot(h, matrix.T, d_part)
                for r in range(n):
                    for i in range(d):
                        da[r, i] += d_part[r, i]
                d_part = d_matrix[: d * width].reshape(d, width)
                np.dot(a.T, h, d_part)
                total = common_weight[b, low * d * d : high * d * d]
                for j in range(total.size):
                    total[j] += d_matrix[j]
            k = g
            for r in range(n):
                if first + r == work.start[k + 1]:
                    k += 1
                u = work.source[k]
                _add_transposed(axon[r], edges.main_weight[u], da[r])
                _add_outer_one(a[r], axon[r], d_edges.main_weight[u], d_edges.main_bias[u])


@_jit()
def _own(indptr: Array, targets: Array, u: int, low: int, high: int) -> tuple[int, int]:
    """First and last private edge of u with a target in low … high - 1."""
    own = targets[indptr[u] : indptr[u + 1]]
    return (
        indptr[u] + np.searchsorted(own, low),
        indptr[u] + np.searchsorted(own, high),
    )


_SCRATCH: dict[str, Array] = {}


def _scratch(name: str, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Memory kept from call to call: fresh pages cost as much as the work done in them."""
    size = math.prod(shape)
    held = _SCRATCH.get(name)
    if held is None or held.size < size or held.dtype != dtype:
        held = _SCRATCH[name] = np.empty(size, dtype)
    return held[:size].reshape(shape)


@_serial
def compete(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    incoming: Array,
    first: int = 0,
    candidates: Array | None = None,
    gradient: bool = True,
) -> Competition:
    """As `minibrillm.reference.compete`."""
    n_streams, n, d = incoming.shape
    dtype, n_nodes = incoming.dtype, graph.n_nodes
    work, order = _work(graph, config, tokens, incoming, first, candidates)
    three_part = config.edges == "three_part"
    apart = three_part and n_nodes * d * d > _PARTS_ABOVE
    n_common = n_nodes if three_part else 1

    gradients: dict[str, Array] = {}
    if gradient:
        gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    bins = _BINS if gradient else 0
    common_weight = _scratch("common_weight", (bins, n_common, d, d), dtype)
    common_bias = _scratch("common_bias", (bins, n_common, d), dtype)
    common_weight[:] = 0
    common_bias[:] = 0
    nll = np.empty(len(order), dtype)
    d_signals = np.empty((len(order) if gradient else 0, d), dtype)
    edges = _edges(parameters, config)
    d_edges = _edges(gradients, config) if gradient else edges
    threads = numba.get_num_threads()
    if apart:
        dendrites = _scratch("dendrites", (n_nodes * d * d,), dtype)
        _pack_dendrites(edges.dendrite_weight, dendrites)
        rows = max(8, min(64, (1 << 22) // (n_nodes * d)))
        chunk = max(1, _CHUNK // d)
        size = rows * n_nodes * (d + 1) + 2 * n_nodes + 2 * rows * d + chunk * d * (d + 1)
        _run_parts(
            edges,
            d_edges,
            _prior(graph, config),
            work,
            graph.indptr,
            graph.targets,
            dendrites,
            common_weight.reshape(bins, n_common * d * d),
            common_bias.reshape(bins, n_common * d),
            _scratch("tiles", (threads, size), dtype),
            rows,
            gradient,
            nll,
            d_signals,
        )
    else:
        n_columns = n_nodes if three_part else int(graph.out_degree.max()) + 1
        width = n_columns * d
        size = 3 * d * width + 3 * width + 3 * n_columns + max(_MIN_ROWS * width, _TILE)
        _run_competition(
            edges,
            d_edges,
            _prior(graph, config),
            work,
            graph.indptr,
            graph.targets,
            common_weight,
            common_bias,
            _scratch("tiles", (threads, size), dtype),
            gradient,
            nll,
            d_signals,
        )
    out_nll, d_incoming = np.empty_like(nll), np.empty_like(d_signals)
    out_nll[order] = nll
    if gradient:
        d_incoming[order] = d_signals
        d_incoming = d_incoming.reshape(incoming.shape)
        shared = "dendrite" if three_part else "edge"
        common_bias.sum(axis=0, out=gradients[f"{shared}_bias"][:n_common])
        if apart:
            _unpack_dendrites(
                common_weight.reshape(bins, n_common * d * d), gradients["dendrite_weight"]
            )
        else:
            common_weight.sum(axis=0, out=gradients[f"{shared}_weight"][:n_common])
    return Competition(out_nll.reshape(n_streams, n), d_incoming, gradients)


# ---------------------------------------------------------------------------- energies, optimiser


@_jit(parallel=True, fastmath=_FLAGS)
def _run_energies(
    edges: _Edges,
    indptr: Array,
    targets: Array,
    sources: Array,
    signals: Array,
    encoding: Array,
    out: Array,
) -> None:
    d = signals.shape[1]
    classes = edges.dendrite_weight.shape[0] == 0
    n_nodes = out.shape[1]
    for r in prange(sources.size):
        u = sources[r]
        low = indptr[u]
        h = np.empty((n_nodes, d), signals.dtype)
        common = encoding[r].copy()
        # What the edges share is found once: the class of the shared edge, or the axon's part.
        slot = 0 if classes else u
        _add_product(signals[r], edges.main_weight[slot], edges.main_bias[slot], common)
        for v in range(n_nodes):
            h[v] = common
            if not classes:
                _add_product(signals[r], edges.dendrite_weight[v], edges.dendrite_bias[v], h[v])
        for e in range(low, indptr[u + 1]):
            v = targets[e]
            if classes:
                h[v] = encoding[r]
                _add_product(signals[r], edges.main_weight[e + 1], edges.main_bias[e + 1], h[v])
            else:
                _add_product(signals[r], edges.private_weight[e], edges.private_bias[e], h[v])
        for v in range(n_nodes):
            total = encoding[r, 0] - encoding[r, 0]
            for o in range(d):
                cdf, _ = _cdf_pdf(h[v, o])
                y = h[v, o] * cdf
                total += y * y
            out[r, v] = math.sqrt(total)


@_serial
def energies(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    incoming: Array,
    first: int = 0,
) -> Array:
    """As `minibrillm.reference.energies`."""
    n_streams, n, d = incoming.shape
    dtype = incoming.dtype
    p = position_encoding(config.positions, first + config.first_position, n, d).astype(dtype)
    out = np.empty((n_streams * n, graph.n_nodes), dtype)
    _run_energies(
        _edges(parameters, config),
        graph.indptr,
        graph.targets,
        np.ascontiguousarray(tokens).reshape(-1),
        incoming.reshape(-1, d),
        np.tile(p, (n_streams, 1)),
        out,
    )
    return out.reshape(n_streams, n, graph.n_nodes)


@_jit(parallel=True, fastmath=_FLAGS)
def _run_adamw(
    parameter: Array, gradient: Array, mean: Array, square: Array, average: Array, c: Array
) -> None:
    scale, keep, rate, beta1, beta2, correction, epsilon, fade = c
    for j in prange(parameter.size):
        g = gradient[j] * scale
        m = mean[j] + beta1 * (g - mean[j])
        s = square[j] + beta2 * (g * g - square[j])
        p = parameter[j] * keep - rate * m / (np.sqrt(s * correction) + epsilon)
        mean[j], square[j], parameter[j] = m, s, p
        average[j] += fade * (p - average[j])


@_serial
def adamw(
    parameter: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    average: Array,
    scale: float,
    step: int,
    learning_rate: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    average_decay: float,
) -> None:
    """As `minibrillm.reference.adamw`."""
    constants = (
        scale,
        1 - learning_rate * weight_decay,
        learning_rate / (1 - beta1**step),
        1 - beta1,
        1 - beta2,
        1 / (1 - beta2**step),
        epsilon,
        1 - average_decay,
    )
    _run_adamw(
        *(array.reshape(-1) for array in (parameter, gradient, mean, square, average)),
        np.array(constants, parameter.dtype),
    )
