"""THE TEXTBOOK: the model forward and backward in plain NumPy, gradients by hand.

Read it with ``minibrillm/MODEL.md`` beside it:

    path_forward    the signals along the tokens as they are              eq. 1-7
    at_source       all neighbours of one node answer, and the way back   eq. 4-5, 8, 10-13
    compete         every source in turn                                  eq. 9, 11b, 11c
    path_backward   gradients back along the path                         eq. 14-19

`minibrillm.kernels` has the same functions, same arguments, compiled. Shapes: B sequences of
n + 1 tokens cross n edges; d is the width of a node; K columns compete at one source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minibrillm.counting import PriorRows, prior_rows
from minibrillm.edges import Edge, Named
from minibrillm.functional import (
    energy,
    energy_backward,
    gelu,
    gelu_derivative,
    logsumexp,
    position_encoding,
    saturate,
    saturate_backward,
    signal_bound,
)
from minibrillm.memory import Competition, Path, State, recent_tokens, start_state
from minibrillm.optim import adamw, sum_of_squares

if TYPE_CHECKING:
    from minibrillm.config import ModelConfig
    from minibrillm.graph import TokenGraph
    from minibrillm.variance import Rounding

# What a backend has.
__all__ = ["adamw", "compete", "energies", "path_backward", "path_forward", "prior_rows"]
__all__ += ["sum_of_squares"]

Array = np.ndarray


# --------------------------------------------------------------------------------- along the path


def path_forward(
    parameters: Named,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    state: State | None = None,
) -> Path:
    """Send the signal along the edges of the path x_0 → x_1 → … → x_n (eq. 1-7).

    ``tokens`` (B, n + 1) are integers; ``state`` is the memory of the streams at ``tokens[:, 0]``,
    without it they begin there.
    """
    (n_streams, n), d = (tokens.shape[0], tokens.shape[1] - 1), config.d_node
    fresh, start = start_state(parameters, config, tokens[:, 0])
    state = fresh if state is None else state
    first, dtype = state.position, state.incoming.dtype
    schedule = config.memory_kind.schedule(parameters, n, first, state.normaliser, state.log_scale)
    encoding = position_encoding(config.positions, first + config.first_position, n, d)
    encoding, bound = encoding.astype(dtype), signal_bound(parameters)
    incoming = np.empty((n_streams, n, d), dtype)
    signal, pre_activation = np.empty_like(incoming), np.empty_like(incoming)
    a, acc = state.incoming, state.accumulator  # (B, d)
    for i in range(n):
        weight, bias = config.edge_kind.between(parameters, graph, tokens[:, i], tokens[:, i + 1])
        h = np.einsum("bi,bio->bo", a, weight) + bias + encoding[i]  # (B, d), eq. 4
        s = saturate(gelu(h), bound)  # eq. 6
        incoming[:, i], pre_activation[:, i], signal[:, i] = a, h, s
        acc = schedule.keep[i] * acc + schedule.gain[i] * s  # eq. 7
        a = acc / schedule.normaliser[i + 1]
    recent = recent_tokens(config, state.recent, tokens[:, 1:])
    z, scale = schedule.normaliser[n], schedule.log_scale
    final = State(tokens[:, -1], a, acc, z, scale, first + n, recent)
    return Path(incoming, signal, pre_activation, start, schedule, first, final)


def path_backward(
    parameters: Named,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    path: Path,
    competition: Competition,
) -> Named:
    """Carry gradients back along the path, from the last edge to the first (eq. 14-19).

    ``path`` is that of `path_forward`, ``competition`` that of `compete`, with gradients. A path
    that began from a carried-on state gives gradients truncated there.

    Returns
    -------
    dict: gradient of the mean loss with respect to every parameter; these are the arrays of
    ``competition.gradients``, to which the path's part has been added
    """
    n, edges, memory = tokens.shape[1] - 1, config.edge_kind, config.memory_kind
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
        edges.add_gradient(gradients, graph, u, v, (a[:, :, None] * dh[:, None, :], dh))
        weight, _ = edges.between(parameters, graph, u, v)
        da = d_incoming[:, i] + np.einsum("bo,bio->bi", dh, weight)  # eq. 16
        da_dot_a[i] = (da * a).sum(axis=0)  # towards eq. 17
        if i > 0:
            d_acc = keep[i] * d_acc + da / z[i]  # eq. 14
    if path.first == 0 and config.start == "node" and n > 0:
        d_start = da + keep[0] * d_acc if memory.remembers_start else da
        np.add.at(gradients["node_bias"], tokens[:, 0], d_start * gelu_derivative(path.start))
    sums = da_dot_a, d_keep, d_gain
    gradients.update(memory.schedule_backward(parameters, path.schedule, path.first, sums))
    return gradients


# ----------------------------------------------------------------------------- at every source node


class Answers(NamedTuple):
    """What N signals found at one source, and the gradients of their loss."""

    nll: Array  # (N,) −log p of the true target, nats
    p: Array  # (N, C) probability of all that compete; from here on empty without gradients
    da: Array  # (N, d) gradient of the signals
    d_edge: Edge  # (K, d, d), (K, d) of weights and biases


def at_source(
    a: Array,
    edge: Edge,
    encoding: Array,
    column: Array,
    log_weight: Array,
    true: Array,
    true_log_weight: Array,
    share: Array | None,
    rounded: Callable[[Array], Array],
) -> Answers:
    """N signals reach one node: its K columns answer, softmax, loss, and each line back.

    Parameters
    ----------
    a, encoding : arrays (N, d)
    edge : arrays (K, d, d), (K, d)
        Weights and biases of the columns.
    column, log_weight : arrays (N, C)
        Which columns compete at each position, and what each weighs there (π).
    true, true_log_weight : arrays (N,)
        The column of the true target, and its own π.
    share : array (N,), optional
        Part of each position in the mean loss; without it no gradients are made.
    rounded : function
        What is done to the probabilities (N, K) before gradients are made of them (eq. 11b).
    """
    (weight, bias), row = edge, np.arange(len(a))
    h = a @ weight + bias[:, None, :] + encoding  # (N, d) @ (K, d, d) -> (K, N, d), eq. 4
    y = gelu(h)
    e = energy(y).T  # (N, K), eq. 5
    logits = e[row[:, None], column] + log_weight  # (N, C)
    log_z = logsumexp(logits)
    nll = log_z - e[row, true] - true_log_weight  # eq. 8, 10
    if share is None:
        none = np.empty(0)
        return Answers(nll, none, none, (none, none))

    p = np.exp(logits - log_z[:, None])  # eq. 8
    de = np.zeros_like(e)
    np.add.at(de, (row[:, None], column), p.astype(e.dtype))
    de = rounded(de)
    de[row, true] -= 1
    de *= share[:, None]  # eq. 11
    dh = energy_backward(de.T, y, e.T) * gelu_derivative(h)  # (K, N, d), eq. 11-12
    da = np.einsum("kno,kio->ni", dh, weight, optimize=True)
    return Answers(nll, p, da, (a.T @ dh, dh.sum(axis=1)))  # eq. 13


def compete(
    parameters: Named,
    graph: TokenGraph,
    config: ModelConfig,
    tokens: Array,
    path: Path,
    *,
    share: Array | None = None,
    candidates: Array | None = None,
    log_prior: PriorRows | None = None,
    rounding: Rounding | None = None,
) -> Competition:
    """Let all neighbours of every node answer, and compare them with the true next token.

    One group of positions for each source node, independent of every other (`at_source`).

    Parameters
    ----------
    tokens : integer array (B, n + 1)
    path : Path
        Of `path_forward`; of it, what arrives (B, n, d) and the position of the first edge.
    share : float64 array (B, n), optional
        Part of each position in the mean loss; without it losses only, no gradients.
    candidates : integer array (B, n, C), optional
        Targets in the softmax, the true one first; without it, all V (eq. 8-9).
    log_prior : PriorRows, optional
        π of every target at every position (kinds of edges without a class only); without it,
        that of the graph, which depends on the source alone.
    rounding : Rounding, optional
        Round small probabilities before gradients are made of them (eq. 11b).
    """
    edges, (n_streams, n, d) = config.edge_kind, path.incoming.shape
    a, truth = path.incoming.reshape(-1, d), tokens[:, 1:].reshape(-1)
    encoding = _encodings(config, path.first, path.incoming)
    flat_share = None if share is None else share.reshape(-1).astype(a.dtype)
    nll, d_incoming = np.empty(len(a), a.dtype), np.empty_like(a)
    gradients = {} if share is None else {k: np.zeros_like(x) for k, x in parameters.items()}
    for u, rows in _by_source(tokens[:, :-1]):
        targets, edge = edges.leaving(parameters, graph, u)
        true = edges.column(graph, u, truth[rows])  # (N,)
        if candidates is None:
            column = np.broadcast_to(np.arange(len(targets)), (len(rows), len(targets)))
            chosen, log_weight = targets[None], edges.log_weights(graph, u)
        else:
            chosen = candidates.reshape(len(a), -1)[rows]  # (N, C)
            column, log_weight = edges.column(graph, u, chosen), graph.log_prior(u, chosen)
        true_log_weight = graph.log_prior(u, truth[rows])
        if log_prior is not None:
            log_weight, true_log_weight = log_prior.of(rows, chosen, truth[rows])
        its_share = None if flat_share is None else flat_share[rows]
        rounded = _as_it_is if rounding is None else partial(rounding.rounded, rows=rows)
        found = at_source(
            *(a[rows], edge, encoding[rows], column, log_weight),
            *(true, true_log_weight, its_share, rounded),
        )
        nll[rows] = found.nll
        if its_share is None:
            continue
        d_incoming[rows] = found.da
        edges.add_gradient(gradients, graph, np.full_like(targets, u), targets, found.d_edge)
        if log_prior is not None:
            d_trust = log_prior.trust_gradient(rows, chosen, truth[rows], found.p, its_share)
            np.add.at(gradients["context_trust"], *d_trust)  # eq. 11c
    d_incoming = d_incoming[:0] if share is None else d_incoming.reshape(path.incoming.shape)
    return Competition(nll.reshape(n_streams, n), d_incoming, gradients)


def energies(
    parameters: Named,
    graph: TokenGraph,
    config: ModelConfig,
    nodes: Array,
    incoming: Array,
    first: int = 0,
) -> Array:
    """Energy with which each of the V nodes answers what arrives at ``nodes`` (B, n) (eq. 5).

    (B, n, d) -> (B, n, V); ``first`` is the position of the first edge.
    """
    edges, (n_streams, n, d) = config.edge_kind, incoming.shape
    a, encoding = incoming.reshape(-1, d), _encodings(config, first, incoming)
    out, everyone = np.empty((len(a), graph.n_nodes), a.dtype), np.arange(graph.n_nodes)
    for u, rows in _by_source(nodes):
        _, (weight, bias) = edges.leaving(parameters, graph, u)
        e = energy(gelu(a[rows] @ weight + bias[:, None, :] + encoding[rows])).T
        out[rows] = e[:, edges.column(graph, u, everyone)]
    return out.reshape(n_streams, n, graph.n_nodes)


def _by_source(nodes: Array) -> Iterable[tuple[int, Array]]:
    """Each node with its flat positions in ``nodes`` (B, n), in order."""
    flat = nodes.ravel()
    order = np.argsort(flat, kind="stable")
    labels, start = np.unique(flat[order], return_index=True)
    return zip(labels, np.split(order, start[1:]), strict=True)


def _encodings(config: ModelConfig, first: int, incoming: Array) -> Array:
    """P of every flat position, (B n, d)."""
    _, n, d = incoming.shape
    encoding = position_encoding(config.positions, first + config.first_position, n, d)
    return np.broadcast_to(encoding.astype(incoming.dtype), incoming.shape).reshape(-1, d)


def _as_it_is(p: Array) -> Array:
    return p
