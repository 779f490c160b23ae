"""The public functions: what they are given is made ready for the loops, and what these found put
back in its place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numba
import numpy as np

from minibrillm.counting import recent_tokens
from minibrillm.functional import gelu_derivative, position_encoding
from minibrillm.kernels import apart, composed
from minibrillm.kernels.everyone import Everyone, energies_at_all, energies_at_one
from minibrillm.kernels.jit import cache_path, one_at_a_time
from minibrillm.kernels.judge import Case, Weights
from minibrillm.kernels.kept import learn_kept
from minibrillm.kernels.lanes import ROWS
from minibrillm.kernels.path import (
    Backward,
    Crossed,
    Forward,
    Parts,
    learn_parts,
    one_stream_forward,
    parts_of_edges,
    steps_of,
    streams_backward,
    streams_forward,
)
from minibrillm.kernels.sort import BINS, Groups, deal, group_by, in_order
from minibrillm.memory import Competition, Path, State, start_state

if TYPE_CHECKING:
    from minibrillm.checks import Network
    from minibrillm.config import ModelConfig
    from minibrillm.counting import PriorRows
    from minibrillm.graph import TokenGraph
    from minibrillm.variance import Rounding

Array = np.ndarray
Named = dict[str, Array]


def cache_folder() -> str:
    """Where compiled kernels are kept between processes."""
    return cache_path(one_stream_forward)


_VECTOR = 64  # bytes
_SCRATCH: dict[str, Array] = {}


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """Memory kept from call to call: fresh pages cost as much as the work done in them.

    It begins where a vector of 64 bytes does; across the border of two, loads take a fifth longer.
    """
    size, held = math.prod(shape), _SCRATCH.get(name)
    if held is None or held.size < size or held.dtype != dtype:
        room = np.empty(size + _VECTOR // dtype.itemsize, dtype)
        first = -room.ctypes.data % _VECTOR // dtype.itemsize
        held = _SCRATCH[name] = room[first : first + size]
    return held[:size].reshape(shape)


def _encoding(config: ModelConfig, first: int, n: int, dtype: Any) -> Array:
    rows = position_encoding(config.positions, first + config.first_position, n, config.d_node)
    return rows.astype(dtype)


# ------------------------------------------------------------------------------------ along a path


@one_at_a_time
def path_forward(model: Network, tokens: Array, state: State | None = None) -> Path:
    """As `minibrillm.reference.path_forward`."""
    parameters, graph, config = model.parameters, model.graph, model.config
    (n_streams, n), d = tokens[:, 1:].shape, config.d_node
    start = np.empty((0, d))  # of no use on a path that goes on
    if state is None:
        state, start = start_state(model, tokens[:, 0])
    dtype, first = state.incoming.dtype, state.position
    schedule = config.memory_kind.schedule(parameters, n, state)
    incoming = np.empty((n_streams, n + 1, d), dtype)
    incoming[:, 0] = state.incoming
    signal, pre_activation = (np.empty((n_streams, n, d), dtype) for _ in range(2))
    acc, encoding = state.accumulator.copy(), _encoding(config, first, n, dtype)
    run = one_stream_forward if n_streams == 1 else streams_forward
    run(
        *parts_of_edges(parameters, config),
        steps_of(parameters, graph, config, tokens, schedule),
        Forward(encoding, acc, incoming, pre_activation, signal),
    )
    recent = recent_tokens(config.prior_order, state.recent, tokens[:, 1:])
    z, scale = schedule.normaliser[n], schedule.log_scale
    final = State(tokens[:, -1], incoming[:, n], acc, z, scale, first + n, recent)
    return Path(incoming[:, :n], signal, pre_activation, start, schedule, final)


@one_at_a_time
def path_backward(model: Network, tokens: Array, path: Path, competition: Competition) -> Named:
    """As `minibrillm.reference.path_backward`."""
    parameters, graph, config = model.parameters, model.graph, model.config
    (n_streams, n, d), dtype, memory = path.incoming.shape, path.incoming.dtype, config.memory_kind
    gradients, da = competition.gradients, competition.d_incoming.copy()
    dh, incoming = np.empty_like(da), np.ascontiguousarray(path.incoming)
    d_acc, d_keep = np.zeros((n_streams, d), dtype), np.empty_like(da)
    d_gain, d_log_bound = (np.empty((n_streams, n), dtype) for _ in range(2))
    steps = steps_of(parameters, graph, config, tokens, path.schedule)
    weight, _ = parts_of_edges(parameters, config)
    sums = d_acc, d_keep, d_gain, d_log_bound
    streams_backward(
        weight, steps, Backward(incoming, path.pre_activation, path.signal, da, dh, *sums)
    )
    if "log_bound" in gradients:
        gradients["log_bound"] += d_log_bound.sum()
    a, dh = incoming.reshape(-1, d), dh.reshape(-1, d)
    for kind, (d_weight, d_bias) in enumerate(zip(*parts_of_edges(gradients, config), strict=True)):
        groups = group_by(steps.part[:, :, kind])
        if len(groups.label):
            # To bring a matrix to the cache and back is worth about 8 positions.
            groups, bin_start = deal(groups, np.diff(groups.start) + 8.0)
            learn_parts(Crossed(*groups, bin_start, a, dh), d_weight, d_bias)
    if path.schedule.first == 0 and config.start == "node" and n > 0:
        d_start = da[:, 0]
        if memory.remembers_start:
            d_start = d_start + path.schedule.keep[0] * d_acc
        np.add.at(
            gradients["node_bias"],
            tokens[:, 0],
            d_start * gelu_derivative(path.start_pre_activation),
        )
    da_times_a = np.einsum("bnd,bnd->nd", da, path.incoming)
    of_memory = da_times_a, d_keep.sum(axis=0), d_gain.sum(axis=0)
    gradients |= memory.schedule_backward(parameters, path.schedule, of_memory)
    return gradients


# ------------------------------------------------------------------------------------- competition

# To compose all edges of a source is worth it while they fit in a cache, or where many positions
# share the source.
PARTS_ABOVE = 1 << 17  # elements, V d²
ELEMENTS_A_POSITION = 42_000
POSITIONS = 4096  # with parts apart, in one call: bounds the memory for energies


def keeps_apart(elements: int, positions_a_source: float) -> bool:
    """Whether to keep the parts of edges apart: V d², and positions for every source."""
    return elements > max(PARTS_ABOVE, ELEMENTS_A_POSITION * positions_a_source)


_LOG_COLUMNS: WeakKeyDictionary[TokenGraph, Array] = WeakKeyDictionary()


def column_weights(graph: TokenGraph, config: ModelConfig) -> Weights:
    """What the columns at each source weigh; those of a class are found once for a graph."""
    if config.edge_kind.has_class:
        if graph not in _LOG_COLUMNS:
            rows = [config.edge_kind.log_weights(graph, u) for u in range(graph.n_nodes)]
            _LOG_COLUMNS[graph] = np.concatenate(rows)
        none = np.zeros(0, np.int64)
        return Weights(none, none, np.zeros(0), np.zeros(0), np.zeros(0), _LOG_COLUMNS[graph])
    return hebbian(graph)


def hebbian(graph: TokenGraph) -> Weights:
    """π of the last token alone."""
    n, prior = graph.n_nodes, graph.prior
    if prior is None:
        none = np.zeros(0, np.int64)
        return Weights(
            np.zeros(n + 1, np.int64), none, np.zeros(0), np.zeros(n), np.zeros(n), np.zeros(0)
        )
    logs = prior.log_probability, prior.log_backoff, prior.log_unigram
    return Weights(prior.indptr, prior.targets, *logs, np.zeros(0))


def _case(
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    order: Array,
    share: Array | None,
    candidates: Array | None,
    log_prior: PriorRows | None,
    rounding: Rounding | None,
    dtype: Any,
) -> Case:
    """What `judge` must know of the positions, in the order given."""
    edges, m = config.edge_kind, len(order)
    u, v = tokens[:, :-1].ravel()[order], tokens[:, 1:].ravel()[order]
    rows = change = np.empty((0, graph.n_nodes), dtype)
    if log_prior is not None:
        size = tokens[:, 1:].size
        rows, change = log_prior.log_prior.reshape(size, -1), log_prior.change.reshape(size, -1)

    def own_prior(targets: Array) -> Array:
        if log_prior is None:
            return graph.log_prior(u[:, None], targets).astype(dtype)
        return rows[order[:, None], targets]

    columns, logs = np.empty((m, 0), np.int64), np.empty((m, 0), dtype)
    if candidates is not None:
        chosen = candidates.reshape(-1, candidates.shape[-1])[order]
        columns, logs = edges.column(graph, u[:, None], chosen), own_prior(chosen)
    part = np.zeros(m, dtype) if share is None else share.ravel()[order].astype(dtype)
    return Case(
        *(edges.column(graph, u, v), own_prior(v[:, None])[:, 0], order, columns, logs),
        *(rows, change, part, 0.0 if rounding is None else rounding.below),
        np.empty(0) if rounding is None else rounding.draws.ravel()[order],
        np.empty(m, dtype),
        np.empty(len(change) if share is not None else 0, dtype),
    )


@one_at_a_time
def compete(
    model: Network,
    tokens: Array,
    path: Path,
    *,
    share: Array | None = None,
    candidates: Array | None = None,
    prior: PriorRows | None = None,
    rounding: Rounding | None = None,
) -> Competition:
    """As `minibrillm.reference.compete`."""
    parameters, graph, config = model.parameters, model.graph, model.config
    (n_streams, n, d), dtype, v = path.incoming.shape, path.incoming.dtype, graph.n_nodes
    learns, three_part = share is not None, config.edges == "three_part"
    groups = group_by(tokens[:, :-1])
    size, degree = np.diff(groups.start), graph.out_degree[groups.label]
    is_apart = three_part and keeps_apart(v * d * d, tokens[:, 1:].size / len(size))
    shares: Any  # where bins begin; or how many sources do not compose their private edges
    if is_apart:
        # To compose them with all dendrites is worth about as many answers as there are nodes.
        many = size * degree > v
        groups, shares = in_order(groups, np.argsort(many, kind="stable")), int((~many).sum())
    else:
        # To compose the edges of a source is worth about a dozen positions.
        groups, shares = deal(groups, (v if three_part else degree + 1) * (12.0 + size))
    order = groups.order
    case = _case(graph, config, tokens, order, share, candidates, prior, rounding, dtype)
    encoding = np.empty((1, 0), dtype)
    if config.positions != "none" or is_apart:
        encoding = _encoding(config, path.schedule.first, n, dtype)[order % n]
    gradients = {k: np.zeros(x.shape, dtype) for k, x in parameters.items()} if learns else {}
    d_signals = np.zeros((len(order) * learns, d), dtype)
    a = np.ones((len(order), d + 1), dtype)
    a[:, :d] = path.incoming.reshape(-1, d)[order]
    edges, weights = parts_of_edges(parameters, config), column_weights(graph, config)
    d_edges = parts_of_edges(gradients, config) if learns else edges
    run = _compete_apart if is_apart else _compete_composed
    run(graph, edges, d_edges, groups, shares, a, encoding, case, weights, d_signals)

    nll, d_incoming = np.empty_like(case.nll), np.empty_like(d_signals)
    nll[order] = case.nll
    if learns:
        d_incoming[order] = d_signals
        d_incoming = d_incoming.reshape(path.incoming.shape)
        if prior is not None:
            d_trust = gradients["context_trust"]
            d_trust += np.bincount(prior.length.ravel(), case.d_trust, d_trust.size)
    return Competition(nll.reshape(n_streams, n), d_incoming, gradients)


def _compete_composed(
    graph: TokenGraph,
    edges: tuple[Parts, Parts],
    d_edges: tuple[Parts, Parts],
    groups: Groups,
    bin_start: Array,
    a: Array,
    encoding: Array,
    case: Case,
    weights: Weights,
    d_signals: Array,
) -> None:
    """The competition with edges composed source by source (`minibrillm.kernels.compete`)."""
    (weight, bias), dtype, threads = edges, a.dtype, numba.get_num_threads()
    d = d_signals.shape[1]
    n_targets, learns = len(weight.target), len(d_signals) > 0
    most = n_targets if len(weight.source) else int(graph.out_degree.max()) + 1
    sizes = composed.sizes_of_room(d, most)
    names = composed.Room._fields
    room = composed.Room._make(
        scratch(name, (threads, size), dtype) for name, size in zip(names, sizes, strict=True)
    )
    lanes = scratch("lanes", (d + 1, d, n_targets), dtype)
    lanes[:d], lanes[d] = np.moveaxis(weight.target, 0, -1), bias.target.T
    d_lanes = scratch("d_lanes", (BINS if learns else 0, d + 1, d * n_targets), dtype)
    d_lanes[:] = 0
    work = composed.Work(
        graph.indptr, graph.targets, groups.label, groups.start, bin_start, a, encoding, d_signals
    )
    composed.compete_composed(
        *(*edges, *d_edges, lanes.reshape(d + 1, -1), d_lanes, work, case, weights, room)
    )
    if learns:
        total = d_lanes.sum(axis=0).reshape(d + 1, d, n_targets)
        d_edges[0].target[...] = np.moveaxis(total[:d], -1, 0)
        d_edges[1].target[...] = total[d].T


def _compete_apart(
    graph: TokenGraph,
    edges: tuple[Parts, Parts],
    d_edges: tuple[Parts, Parts],
    groups: Groups,
    alone: int,
    a: Array,
    encoding: Array,
    case: Case,
    weights: Weights,
    d_signals: Array,
) -> None:
    """The competition with the parts of edges apart (`minibrillm.kernels.apart`)."""
    d, dtype, v, threads = a.shape[1] - 1, a.dtype, graph.n_nodes, numba.get_num_threads()
    chunk = -(-v // (BINS * -(-v // (BINS * apart.CHUNK))))  # all bins have as many targets
    size = d * chunk
    room = apart.Room(
        scratch("lanes", (threads, 2, (d + 1) * size), dtype),
        scratch("d_lanes", (threads, 2, (d + 1) * size), dtype),
        scratch("h", (threads, max((ROWS + 1) * size, d * (v // BINS + chunk))), dtype),
        scratch("columns", (threads, 2 * v), dtype),
    )
    learns = len(d_signals) > 0
    for first in range(0, len(a), POSITIONS):
        last = min(first + POSITIONS, len(a))
        low = int(np.searchsorted(groups.start, first, side="right")) - 1
        high = int(np.searchsorted(groups.start, last, side="left"))
        source = groups.label[low:high]
        start = np.clip(groups.start[low : high + 1], first, last) - first
        n, size_of, few = last - first, np.diff(start), max(min(alone - low, high - low), 0)
        shape = (BINS * learns, n, d)
        x = apart.Apart(
            *(graph.indptr, graph.targets, source, start),
            np.repeat(np.arange(len(source)), size_of),
            *(np.append(-1, source[few:]), np.append(0, start[few:])),
            *(a[first:last], encoding[first:last], scratch("energy", (n, v), dtype)),
            *(scratch("da", shape, dtype), scratch("d_common", shape, dtype)),
            d_signals[first:last],
        )
        whole = ("rows", "change", "d_trust", "below")
        part = case._replace(
            **{k: y[first:last] for k, y in case._asdict().items() if k not in whole}
        )
        apart.hear_sources(*edges, x)
        apart.hear_targets(*edges, x, room, chunk)
        apart.judge_positions(x, part, weights, room)
        if learns:
            learn = learn_kept if len(part.draws) else apart.learn_targets
            learn(*edges, *d_edges, x, room, chunk)
            apart.learn_sources(edges[0], *d_edges, x)


# ---------------------------------------------------------------------------------------- energies


@one_at_a_time
def energies(model: Network, nodes: Array, incoming: Array, first: int = 0) -> Array:
    """As `minibrillm.reference.energies`."""
    parameters, graph, config = model.parameters, model.graph, model.config
    (n_streams, n, d), dtype = incoming.shape, incoming.dtype
    encoding = np.tile(_encoding(config, first, n, dtype), (n_streams, 1))
    out = np.empty((n_streams * n, graph.n_nodes), dtype)
    signals = np.ascontiguousarray(incoming).reshape(-1, d)
    source = np.ascontiguousarray(nodes).reshape(-1)
    run = energies_at_one if len(out) == 1 else energies_at_all
    x = Everyone(graph.indptr, graph.targets, source, signals, encoding, out)
    run(*parts_of_edges(parameters, config), x)
    return out.reshape(n_streams, n, graph.n_nodes)
