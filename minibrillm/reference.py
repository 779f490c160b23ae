"""THE TEXTBOOK: the model forward and backward in plain NumPy, gradients by hand.

Three functions, to be read with ``minibrillm/MODEL.md`` beside them:

    path_forward    the signals along the tokens as they are          eq. 1-7
    compete         all neighbours of every node answer; loss         eq. 4-5, 8-10 and back, 11-13
    path_backward   gradients back along the path                     eq. 14-19

`minibrillm.kernels` has the same functions, same arguments, compiled. Shapes: B sequences of
n + 1 tokens cross n edges; d is the width of a node; K columns compete at one source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from minibrillm.functional import (
    SQUARES_BLOCK,
    SQUARES_LANES,
    Competition,
    Groups,
    Path,
    PriorRows,
    Rounding,
    State,
    Withheld,
    energy,
    energy_backward,
    gelu,
    gelu_derivative,
    group_by,
    logsumexp,
    memory_schedule,
    memory_schedule_backward,
    position_encoding,
    position_shares,
    recent_tokens,
    round_at_random,
    saturate,
    saturate_backward,
    signal_bound,
    start_state,
)

if TYPE_CHECKING:
    from minibrillm.config import ModelConfig
    from minibrillm.graph import TokenGraph

Array = np.ndarray
Parameters = Mapping[str, Array]


# --------------------------------------------------------------------------------- what an edge is


def edges_between(
    parameters: Parameters, graph: TokenGraph, config: ModelConfig, u: Array, v: Array
) -> tuple[Array, Array]:
    """Weight and bias of the edges u→v, pair by pair: (N,), (N,) -> (N, d, d), (N, d) (eq. 3)."""
    index = graph.edge(u, v)  # (N,), -1: never seen
    if config.edges == "shared":
        slot = index + 1  # slot 0 is the shared edge
        return parameters["edge_weight"][slot], parameters["edge_bias"][slot]
    seen = index >= 0
    edge = []
    for kind in ("weight", "bias"):
        total = parameters[f"axon_{kind}"][u] + parameters[f"dendrite_{kind}"][v]
        total[seen] += parameters[f"synapse_{kind}"][index[seen]]
        edge.append(total)
    return edge[0], edge[1]


def out_edges(
    parameters: Parameters, graph: TokenGraph, config: ModelConfig, u: int
) -> tuple[Array, Array, Array]:
    """The columns that compete at node u: targets (K,), weights (K, d, d), biases (K, d).

    ``shared``: the private edges of u and, last, the class of all other nodes, which share one
    edge (its target reads -1). ``three_part``: all V nodes.
    """
    if config.edges == "shared":
        low, high = graph.indptr[u], graph.indptr[u + 1]
        targets = np.append(graph.targets[low:high], -1)
        slots = np.append(np.arange(low, high) + 1, 0)
        return targets, parameters["edge_weight"][slots], parameters["edge_bias"][slots]
    targets = np.arange(graph.n_nodes)
    weight, bias = edges_between(parameters, graph, config, np.full_like(targets, u), targets)
    return targets, weight, bias


def column_of(graph: TokenGraph, config: ModelConfig, u: int, v: Array) -> Array:
    """Column at node u in which each target of ``v`` (any shape) competes."""
    return v if config.edges == "three_part" else graph.column(np.asarray(u), v)


def column_weights(graph: TokenGraph, config: ModelConfig, u: int) -> Array:
    """What each column at u weighs in the full softmax: π, the class's log mass, (K,) (eq. 9)."""
    everyone = np.zeros(graph.n_nodes) if graph.prior is None else graph.prior.row(u)
    if config.edges == "three_part":
        return everyone
    targets = graph.targets[graph.indptr[u] : graph.indptr[u + 1]]
    return np.append(everyone[targets], graph.log_unseen_weight[u])


def add_edge_gradient(
    gradients: dict[str, Array],
    graph: TokenGraph,
    config: ModelConfig,
    u: Array,
    v: Array,
    d_weight: Array,
    d_bias: Array,
) -> None:
    """Add gradients of the edges u→v to those of their parts; v = -1 is the shared edge (eq. 13).

    The counterpart of `edges_between`: (N,), (N,), (N, d, d), (N, d).
    """
    index = graph.edge(u, v)
    for kind, gradient in (("weight", d_weight), ("bias", d_bias)):
        if config.edges == "shared":
            np.add.at(gradients[f"edge_{kind}"], index + 1, gradient)
        else:
            seen = index >= 0
            np.add.at(gradients[f"axon_{kind}"], u, gradient)
            np.add.at(gradients[f"dendrite_{kind}"], v, gradient)
            np.add.at(gradients[f"synapse_{kind}"], index[seen], gradient[seen])


# --------------------------------------------------------------------------------------- path pass


def path_forward(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    state: State | None = None,
) -> Path:
    """Send the signal along the edges of the path x_0 → x_1 → … → x_n (eq. 1-7).

    Parameters
    ----------
    tokens : integer array (B, n + 1)
    state : State, optional
        Memory of the streams at ``tokens[:, 0]``; without it they begin there.

    Returns
    -------
    Path
    """
    n_streams, n = tokens.shape[0], tokens.shape[1] - 1
    d = config.d_node
    fresh, start = start_state(parameters, config, tokens[:, 0])
    state = fresh if state is None else state
    dtype = state.incoming.dtype
    schedule = memory_schedule(
        config, parameters, n, state.position, state.normaliser, state.log_scale
    )
    encoding = position_encoding(
        config.positions, state.position + config.first_position, n, d
    ).astype(dtype)

    bound = signal_bound(parameters)
    incoming = np.empty((n_streams, n, d), dtype)
    signal, pre_activation = np.empty_like(incoming), np.empty_like(incoming)
    a, acc = state.incoming, state.accumulator  # (B, d)
    for i in range(n):
        weight, bias = edges_between(parameters, graph, config, tokens[:, i], tokens[:, i + 1])
        h = np.einsum("bi,bio->bo", a, weight) + bias + encoding[i]  # (B, d), eq. 4
        s = saturate(gelu(h), bound)  # eq. 6
        incoming[:, i], pre_activation[:, i], signal[:, i] = a, h, s
        acc = schedule.keep[i] * acc + schedule.gain[i] * s  # eq. 7
        a = acc / schedule.normaliser[i + 1]
    final = State(
        tokens[:, -1],
        a,
        acc,
        schedule.normaliser[n],
        schedule.log_scale,
        state.position + n,
        recent_tokens(config, state.recent, tokens[:, 1:]),
    )
    return Path(incoming, signal, pre_activation, start, schedule, state.position, final)


def path_backward(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    path: Path,
    competition: Competition,
) -> dict[str, Array]:
    """Carry gradients back along the path, from the last edge to the first (eq. 14-19).

    A path that began from a carried-on state gives gradients truncated there.

    Parameters
    ----------
    tokens : integer array (B, n + 1)
    path : Path
        Of `path_forward`.
    competition : Competition
        Of `compete`, with gradients.

    Returns
    -------
    dict: gradient of the mean loss with respect to every parameter; these are the arrays of
    ``competition.gradients``, to which the path's part has been added
    """
    n = tokens.shape[1] - 1
    keep, gain, z = path.schedule.keep, path.schedule.gain, path.schedule.normaliser
    gradients, d_incoming = competition.gradients, competition.d_incoming
    bound = signal_bound(parameters)
    d_keep, d_gain, da_dot_a = np.zeros_like(z[0]), np.zeros_like(gain), np.zeros_like(keep)
    d_acc = np.zeros_like(path.start)  # dacc_{i+1}, (B, d); the last signal reaches nothing
    for i in reversed(range(n)):
        a, s, h = path.incoming[:, i], path.signal[:, i], path.pre_activation[:, i]  # (B, d)
        ds = gain[i] * d_acc  # eq. 14
        d_gain[i] = (d_acc * s).sum()  # towards eq. 19
        d_keep += (d_acc * a * z[i]).sum(axis=0)  # acc_i = a_i z_i, towards eq. 18
        dy, d_log_bound = saturate_backward(ds, gelu(h), bound)  # eq. 15
        if bound:
            gradients["log_bound"] += d_log_bound.sum()
        dh = dy * gelu_derivative(h)
        u, v = tokens[:, i], tokens[:, i + 1]
        add_edge_gradient(gradients, graph, config, u, v, a[:, :, None] * dh[:, None, :], dh)
        weight, _ = edges_between(parameters, graph, config, u, v)
        da = d_incoming[:, i] + np.einsum("bo,bio->bi", dh, weight)  # eq. 16
        da_dot_a[i] = (da * a).sum(axis=0)  # towards eq. 17
        if i > 0:
            d_acc = keep[i] * d_acc + da / z[i]  # eq. 14
    if path.first == 0 and config.start == "node" and n > 0:
        d_start = da + keep[0] * d_acc if config.memory == "leaky" else da
        np.add.at(gradients["node_bias"], tokens[:, 0], d_start * gelu_derivative(path.start))
    gradients.update(
        memory_schedule_backward(
            config, parameters, path.schedule, path.first, da_dot_a, d_keep, d_gain
        )
    )
    return gradients


# -------------------------------------------------------------------------------- competition pass


def answers(a: Array, weight: Array, bias: Array, encoding: Array) -> tuple[Array, Array, Array]:
    """K columns answer the N signals that reach one node (eq. 4-5).

    Parameters
    ----------
    a, encoding : arrays (N, d)
    weight, bias : arrays (K, d, d), (K, d)

    Returns
    -------
    pre-activations h (K, N, d), answers y (K, N, d), energies e (N, K)
    """
    h = a @ weight + bias[:, None, :] + encoding  # (N, d) @ (K, d, d) -> (K, N, d)
    y = gelu(h)
    return h, y, energy(y).T


def _sources(
    config: ModelConfig, tokens: Array, incoming: Array, first: int
) -> tuple[Groups, Array, Array, Array]:
    """Positions grouped by source: groups, then flat signals, targets and encodings."""
    n_streams, n, d = incoming.shape
    encoding = position_encoding(config.positions, first + config.first_position, n, d)
    p = np.broadcast_to(encoding.astype(incoming.dtype), incoming.shape)
    flat = (n_streams * n, d)
    return (
        group_by(tokens[:, :-1]),
        incoming.reshape(flat),
        tokens[:, 1:].reshape(-1),
        p.reshape(flat),
    )


def compete(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    incoming: Array,
    first: int = 0,
    candidates: Array | None = None,
    weights: Array | None = None,
    gradient: bool = True,
    log_prior: PriorRows | None = None,
    rounding: Rounding | None = None,
) -> Competition:
    """Let all neighbours of every node answer, and compare them with the true next token (softmax).

    One group of positions for each source node u, independent of every other.

    Parameters
    ----------
    tokens : integer array (B, n + 1)
    incoming : array (B, n, d)
        a_i of `path_forward`.
    first : int
        Position of the first edge.
    candidates : integer array (B, n, C), optional
        Targets in the softmax, the true one first; without it, all V (eq. 8-9).
    weights : array (B, n), optional
        How much each position counts in the mean loss, at least 0; without it, all the same.
    gradient : bool
        Also find the gradients of the mean loss (eq. 10-13).
    log_prior : PriorRows, optional
        π of every target at every position (`prior_rows`; three-part edges only); without it,
        that of the graph, which depends on the source alone.
    rounding : Rounding, optional
        Round small probabilities before gradients are made of them (eq. 11b); the losses are
        exact all the same.

    Returns
    -------
    Competition
    """
    n_streams, n, _ = incoming.shape
    groups, arriving, truth, encoding = _sources(config, tokens, incoming, first)
    share = position_shares(weights, n_streams * n).astype(incoming.dtype)
    nll = np.empty(n_streams * n, incoming.dtype)
    d_incoming = np.empty_like(arriving)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}

    for k, u in enumerate(groups.label):
        rows = groups.order[groups.start[k] : groups.start[k + 1]]  # (N,)
        a = arriving[rows]  # (N, d)
        targets, weight, bias = out_edges(parameters, graph, config, u)
        h, y, e = answers(a, weight, bias, encoding[rows])  # e (N, K)
        true_column = column_of(graph, config, u, truth[rows])  # (N,)
        index = np.arange(len(rows))
        if candidates is None:
            chosen = targets[None]
            column = np.broadcast_to(np.arange(len(targets)), e.shape)  # (N, C), C = K
        else:
            chosen = candidates.reshape(n_streams * n, -1)[rows]  # (N, C)
            column = column_of(graph, config, u, chosen)
        if log_prior is not None:
            chosen = np.broadcast_to(chosen, column.shape)
            own = log_prior.log_prior.reshape(n_streams * n, -1)[rows]  # (N, V)
            log_weights = np.take_along_axis(own, chosen, axis=1)
            true_log_weight = own[index, truth[rows]]
        else:
            true_log_weight = graph.log_prior(u, truth[rows])
            if candidates is None:
                log_weights = np.broadcast_to(column_weights(graph, config, u), e.shape)
            else:
                log_weights = graph.log_prior(u, chosen)

        logits = e[index[:, None], column] + log_weights  # (N, C)
        log_z = logsumexp(logits)  # (N,)
        nll[rows] = log_z - e[index, true_column] - true_log_weight  # eq. 8, 10
        if not gradient:
            continue

        p = np.exp(logits - log_z[:, None])  # eq. 8
        if log_prior is not None:
            change = log_prior.change.reshape(n_streams * n, -1)[rows]  # (N, V)
            expected = (p * np.take_along_axis(change, chosen, axis=1)).sum(axis=1)
            d_trust = share[rows] * (expected - change[index, truth[rows]])  # eq. 11c
            length = log_prior.length.reshape(-1)[rows]
            np.add.at(gradients["context_trust"], length, d_trust)
        g = np.zeros_like(e)  # dE, (N, K), eq. 11
        np.add.at(g, (index[:, None], column), p.astype(e.dtype))
        if rounding is not None:
            g = round_at_random(g, rounding.below, rounding.draws.reshape(-1)[rows])
        g[index, true_column] -= 1
        g *= share[rows][:, None]
        dy = energy_backward(g.T, y, e.T)  # (K, N, d), eq. 11
        dh = dy * gelu_derivative(h)  # eq. 12
        d_weight, d_bias = a.T @ dh, dh.sum(axis=1)  # (K, d, d), (K, d), eq. 13
        d_incoming[rows] = np.einsum("kno,kio->ni", dh, weight, optimize=True)  # eq. 13
        sources = np.full_like(targets, u)
        add_edge_gradient(gradients, graph, config, sources, targets, d_weight, d_bias)
    return Competition(
        nll.reshape(n_streams, n),
        d_incoming.reshape(incoming.shape) if gradient else d_incoming[:0],
        gradients if gradient else {},
    )


def prior_rows(
    graph: TokenGraph, trust: Array, tokens: Array, n: int, withheld: Withheld | None = None
) -> PriorRows:
    """π of an n-gram prior after each of the last n tokens of streams (eq. 9b).

    Parameters
    ----------
    graph : TokenGraph
        With both priors, ``prior`` and ``ngrams``.
    trust : array (n_order,)
        κ_l of contexts of l tokens; its precision is that of the rows.
    tokens : integer array (B, T), T ≥ n
        The first T - n are context only.
    withheld : Withheld, optional
        In training: what follows, whose places in the text are not to be counted (T = n).

    Returns
    -------
    PriorRows: κ_l log p_KN(v | all tokens so far) + (1 - κ_l) log p_KN(v | the last one) and so on
    """
    assert graph.ngrams is not None
    assert graph.prior is not None
    last = slice(tokens.shape[1] - n, tokens.shape[1])
    if withheld is None:
        far, length = graph.ngrams.log_rows(_flat(graph.ngrams.grams(tokens)[:, last, :-1]))
        near = np.array([graph.prior.row(int(u)) for u in tokens[:, last].ravel()])
    else:
        path = np.concatenate([tokens, withheld.truth[:, -1:]], axis=1)
        rows = []
        for counts in (graph.ngrams, withheld.bigrams):
            grams = counts.grams(path)  # (B, n + 1, order)
            rows.append(counts.log_rows(_flat(grams[:, :-1, :-1]), _flat(grams[:, 1:])))
        (far, length), (near, _) = rows
    change = far - near
    log_prior = near + trust[length][:, None] * change
    shape = len(tokens), n, graph.n_nodes
    return PriorRows(
        log_prior.astype(trust.dtype).reshape(shape),
        change.astype(trust.dtype).reshape(shape),
        length.reshape(shape[:2]),
    )


def _flat(grams: Array) -> Array:
    """(B, n, K) -> (B n, K)"""
    return grams.reshape(-1, grams.shape[-1])


def energies(
    parameters: Parameters,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    incoming: Array,
    first: int = 0,
) -> Array:
    """Energy with which each of the V nodes answers at every position: (B, n, V) (eq. 5).

    ``tokens`` (B, n): here only the sources count.
    """
    n_streams, n, _ = incoming.shape
    sources = np.concatenate([tokens, tokens[:, -1:]], axis=1)
    groups, arriving, _, encoding = _sources(config, sources, incoming, first)
    out = np.empty((n_streams * n, graph.n_nodes), incoming.dtype)
    everyone = np.arange(graph.n_nodes)
    for k, u in enumerate(groups.label):
        rows = groups.order[groups.start[k] : groups.start[k + 1]]
        _, weight, bias = out_edges(parameters, graph, config, u)
        _, _, e = answers(arriving[rows], weight, bias, encoding[rows])
        out[rows] = e[:, column_of(graph, config, u, everyone)]
    return out.reshape(n_streams, n, graph.n_nodes)


# --------------------------------------------------------------------------------------- optimiser


def sum_of_squares(array: Array) -> float:
    """Σ x² over all elements, in float64: towards the norm of a gradient."""
    flat = array.reshape(-1)
    sums = []
    for first in range(0, flat.size, SQUARES_BLOCK):
        block = flat[first : first + SQUARES_BLOCK].astype(np.float64)
        lanes = np.pad(block, (0, -block.size % SQUARES_LANES)).reshape(-1, SQUARES_LANES)
        sums.append(np.square(lanes).sum(axis=0))
    return math.fsum(x for lanes in sums for x in lanes)


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
    """One step of AdamW on one array, in place, and of the moving average of the weights.

    Weight decay is apart from the gradient (Loshchilov & Hutter 2019, algorithm 2). Moments and
    average start at zero and at the first weights; ``scale`` multiplies the gradient first
    (clipping); ``step`` counts from 1.
    """
    g = gradient * parameter.dtype.type(scale)
    mean += (1 - beta1) * (g - mean)
    square += (1 - beta2) * (g * g - square)
    root = np.sqrt(square / (1 - beta2**step)) + epsilon
    parameter *= 1 - learning_rate * weight_decay
    parameter -= learning_rate / (1 - beta1**step) * mean / root
    average += (1 - average_decay) * (parameter - average)
