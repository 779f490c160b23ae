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
from typing import NamedTuple

import numpy as np

from minibrillm.checks import Network
from minibrillm.counting import PriorRows, prior_rows, recent_tokens
from minibrillm.edges import Edge
from minibrillm.functional import (
    Named,
    bound_of,
    energy,
    energy_backward,
    gelu,
    gelu_derivative,
    logsumexp,
    position_encoding,
    saturate,
    saturate_backward,
)
from minibrillm.machine import sum_of_squares
from minibrillm.memory import Competition, Path, State, start_state
from minibrillm.optim import adamw
from minibrillm.variance import Rounding

Array = np.ndarray
__all__ = ["adamw", "compete", "energies", "path_backward", "path_forward", "prior_rows"]
__all__ += ["sum_of_squares"]  # what a backend has


def path_forward(model: Network, tokens: Array, state: State | None = None) -> Path:
    """Send the signal along the edges of the path x_0 → x_1 → … → x_n (eq. 1-7).

    ``tokens`` (B, n + 1) are integers; ``state`` is the memory of the streams at ``tokens[:, 0]``,
    without it they begin there.
    """
    config, (n_streams, n) = model.config, tokens[:, 1:].shape
    start = np.empty((0, config.d_node))  # of no use on a path that goes on
    if state is None:
        state, start = start_state(model, tokens[:, 0])
    schedule = config.memory_kind.schedule(model.parameters, n, state)
    bound = bound_of(model.parameters)
    incoming = np.empty((n_streams, n, config.d_node), schedule.gain.dtype)
    encoding = _encodings(model, state.position, incoming[:1])  # (n, d), the same for all
    signal, pre_activation = np.empty_like(incoming), np.empty_like(incoming)
    a, acc = state.incoming, state.accumulator  # (B, d)
    for i in range(n):
        u, v = tokens[:, i], tokens[:, i + 1]
        weight, bias = config.edge_kind.between(model, u, v)
        h = np.einsum("bi,bio->bo", a, weight) + bias + encoding[i]  # (B, d), eq. 4
        s = saturate(gelu(h), bound)  # eq. 6
        incoming[:, i], pre_activation[:, i], signal[:, i] = a, h, s
        acc = schedule.keep[i] * acc + schedule.gain[i] * s  # eq. 7
        a = acc / schedule.normaliser[i + 1]
    recent = recent_tokens(config.prior_order, state.recent, tokens[:, 1:])
    z, scale, here = schedule.normaliser[n], schedule.log_scale, state.position + n
    final = State(tokens[:, -1], a, acc, z, scale, here, recent)
    return Path(incoming, signal, pre_activation, start, schedule, final)


def path_backward(model: Network, tokens: Array, path: Path, competition: Competition) -> Named:
    """Carry gradients back along the path, from the last edge to the first (eq. 14-19).

    Returns the gradient of the mean loss in every parameter: the arrays of
    ``competition.gradients``, to which the path's part has been added. A path that began from a
    carried-on state gives gradients truncated there.
    """
    config, n = model.config, tokens.shape[1] - 1
    keep, gain, z = path.schedule.keep, path.schedule.gain, path.schedule.normaliser
    gradients, bound = competition.gradients, bound_of(model.parameters)
    d_keep, d_gain, da_times_a = np.zeros_like(keep), np.zeros_like(gain), np.zeros_like(keep)
    d_acc = np.zeros_like(path.final.incoming)  # dacc_{i+1}, (B, d); nothing comes after the last
    for i in reversed(range(n)):
        u, v = tokens[:, i], tokens[:, i + 1]
        a, s, h = path.incoming[:, i], path.signal[:, i], path.pre_activation[:, i]  # (B, d)
        ds = gain[i] * d_acc  # eq. 14
        d_gain[i] = (d_acc * s).sum()  # towards eq. 19
        d_keep[i] = (d_acc * a * z[i]).sum(axis=0)  # acc_i = a_i z_i, towards eq. 18
        dy, d_log_bound = saturate_backward(ds, gelu(h), bound)  # eq. 15
        if bound:
            gradients["log_bound"] += d_log_bound.sum()
        dh = dy * gelu_derivative(h)
        d_weight = a[:, :, None] * dh[:, None, :]  # (B, d, d), eq. 16
        config.edge_kind.add_gradient(gradients, model, u, v, (d_weight, dh))
        weight, _ = config.edge_kind.between(model, u, v)  # not kept: d²
        da = competition.d_incoming[:, i] + np.einsum("bo,bio->bi", dh, weight)  # eq. 16
        da_times_a[i] = (da * a).sum(axis=0)  # towards eq. 17
        if i > 0:
            d_acc = keep[i] * d_acc + da / z[i]  # eq. 14
    memory, sums = config.memory_kind, (da_times_a, d_keep, d_gain)
    if path.schedule.first == 0 and config.start == "node" and n > 0:
        d_start = da + keep[0] * d_acc if memory.remembers_start else da  # da_0, dacc_1
        dh = d_start * gelu_derivative(path.start_pre_activation)
        np.add.at(gradients["node_bias"], tokens[:, 0], dh)
    gradients |= memory.schedule_backward(model.parameters, path.schedule, sums)
    return gradients


class Columns(NamedTuple):
    """Who competes at N positions of one source, C of its K columns at each."""

    number: Array  # (N, C) which columns
    log_weight: Array  # (N, C) what each weighs: π
    true: Array  # (N,) column of the true target
    true_log_weight: Array  # (N,) π of the true target, which may be one of a class


def answers(a: Array, edge: Edge, encoding: Array) -> tuple[Array, Array, Array]:
    """K columns answer N signals (N, d): h and y (K, N, d), energies (N, K) (eq. 4-5)."""
    weight, bias = edge  # (K, d, d), (K, d)
    h = a @ weight + bias[:, None, :] + encoding  # (N, d) @ (K, d, d) -> (K, N, d), eq. 4
    y = gelu(h)
    return h, y, energy(y).T  # eq. 5


def at_source(
    a: Array,
    edge: Edge,
    encoding: Array,
    columns: Columns,
    share: Array | None,
    rounded: Callable[[Array], Array] | None,
) -> tuple[Array, Array, Array, Edge]:
    """N signals reach one node: its K columns answer, softmax, loss, and each line back.

    ``a`` and ``encoding`` are (N, d), ``edge`` the columns' weights and biases. ``share`` (N,) is
    each position's part in the mean loss, without which no gradients are made; ``rounded`` changes
    the probabilities (N, K) that they are made of (eq. 11b). Returns −log p of the true targets
    (N,), p (N, C), and gradients in a and in the edges.
    """
    row, (column, log_weight, true, true_log_weight) = np.arange(len(a)), columns
    h, y, e = answers(a, edge, encoding)
    logits = e[row[:, None], column] + log_weight  # (N, C)
    log_z = logsumexp(logits)
    nll = log_z - e[row, true] - true_log_weight  # eq. 8, 10
    p = np.exp(logits - log_z[:, None])  # eq. 8
    if share is None:
        return nll, p, a[:0], (a[:0], a[:0])

    de = np.zeros_like(e)
    np.add.at(de, (row[:, None], column), p.astype(e.dtype))
    de = de if rounded is None else rounded(de)
    de[row, true] -= 1
    de *= share[:, None]  # eq. 11
    dh = energy_backward(de.T, y, e.T) * gelu_derivative(h)  # (K, N, d), eq. 11-12
    da = np.einsum("kno,kio->ni", dh, edge[0], optimize=True)
    return nll, p, da, (a.T @ dh, dh.sum(axis=1))  # eq. 13


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
    """Let all neighbours of every node answer, and compare them with the true next token.

    One group of positions for each source node, independent of every other (`at_source`). Of the
    path it takes what arrives there (B, n, d). ``share`` (B, n), float64, is each position's part
    in the mean loss; without it losses only, no gradients. ``candidates`` (B, n, C) are the targets
    in the softmax, the true one first; without them, all V (eq. 8-9). ``prior`` holds π of every
    target at every position; without it π is that of the graph, by source. ``rounding``: eq. 11b.
    """
    graph, edges = model.graph, model.config.edge_kind
    a, truth = path.incoming.reshape(-1, path.incoming.shape[-1]), tokens[:, 1:].reshape(-1)
    encoding = _encodings(model, path.schedule.first, path.incoming)
    shares = None if share is None else share.reshape(-1).astype(a.dtype)
    nll, d_incoming = np.empty(len(a), a.dtype), np.empty_like(a if share is not None else a[:0])
    gradients = {} if share is None else {k: np.zeros_like(x) for k, x in model.parameters.items()}
    for u, rows in _by_source(tokens[:, :-1]):
        targets, edge = edges.leaving(model, u)
        true, true_log_weight = truth[rows], graph.log_prior(u, truth[rows])
        if candidates is None:
            chosen, log_weight = targets[None], edges.log_weights(graph, u)  # (1, C): for all alike
            column = np.broadcast_to(np.arange(len(targets)), (len(rows), len(targets)))
        else:
            chosen = candidates.reshape(len(a), -1)[rows]  # (N, C)
            column, log_weight = edges.column(graph, u, chosen), graph.log_prior(u, chosen)
        if prior is not None:
            log_weight, true_log_weight = prior.of(rows, chosen, true)
        true_column = edges.column(graph, u, true)
        nll[rows], p, da, d_edge = at_source(
            a[rows],
            edge,
            encoding[rows],
            Columns(column, log_weight, true_column, true_log_weight),
            None if shares is None else shares[rows],
            None if rounding is None else partial(rounding.rounded, rows=rows),
        )
        if shares is None:
            continue
        d_incoming[rows] = da
        edges.add_gradient(gradients, model, np.full_like(targets, u), targets, d_edge)
        if prior is not None:
            d_trust = prior.trust_gradient(rows, chosen, true, p, shares[rows])
            np.add.at(gradients["context_trust"], *d_trust)  # eq. 11c
    shape = path.incoming.shape
    return Competition(nll.reshape(shape[:2]), d_incoming.reshape(-1, *shape[1:]), gradients)


def energies(model: Network, nodes: Array, incoming: Array, first: int = 0) -> Array:
    """Energy with which each of the V nodes answers what arrives at ``nodes`` (B, n) (eq. 5).

    (B, n, d) -> (B, n, V); ``first`` is the position of the first edge.
    """
    graph, edges, everyone = model.graph, model.config.edge_kind, np.arange(model.graph.n_nodes)
    a, encoding = incoming.reshape(-1, incoming.shape[-1]), _encodings(model, first, incoming)
    out = np.empty((len(a), graph.n_nodes), a.dtype)
    for u, rows in _by_source(nodes):
        _, _, e = answers(a[rows], edges.leaving(model, u)[1], encoding[rows])
        out[rows] = e[:, edges.column(graph, u, everyone)]
    return out.reshape(*nodes.shape, graph.n_nodes)


def _by_source(nodes: Array) -> Iterable[tuple[int, Array]]:
    """Each node with its flat positions in ``nodes`` (B, n), in order."""
    flat = nodes.ravel()
    order = np.argsort(flat, kind="stable")
    labels, start = np.unique(flat[order], return_index=True)
    return zip(labels, np.split(order, start[1:]), strict=True)


def _encodings(model: Network, first: int, incoming: Array) -> Array:
    """P at every flat position of what arrives (B, n, d), from edge ``first`` on: (B n, d)."""
    c, (_, n, d) = model.config, incoming.shape
    encoding = position_encoding(c.positions, first + c.first_position, n, d)
    return np.broadcast_to(encoding.astype(incoming.dtype), incoming.shape).reshape(-1, d)
