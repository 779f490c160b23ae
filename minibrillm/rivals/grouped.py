"""The layout of `minibrillm.reference`: a path pass, then one matrix product for each source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from minibrillm.rivals.energy import nll_of
from minibrillm.rivals.pytorch import F, Tensor, torch

Twin: TypeAlias = Any  # of `minibrillm.rivals.twin`, which calls this file
Pair = tuple[Tensor, Tensor]

_PIECE = 1 << 21  # pre-activations of V answers that go through all operations while in cache


def grouped_loss(twin: Twin, u: Tensor, v: Tensor, candidates: Tensor | None) -> Tensor:
    """Mean −log p of the edges u→v (B, n), nats, grouped by source; candidates (B, n, C).

    Groups of equal size stand side by side, so that one batched product serves them all.
    """
    nodes = u.T.flatten()  # position after position
    order = torch.argsort(torch.bincount(nodes)[nodes] * twin.n_nodes + nodes, stable=True)
    source, truth = nodes[order], v.T.flatten()[order]
    sources, sizes = torch.unique_consecutive(source, return_counts=True)
    table = twin.edge_table(sources)
    encoding = twin.encoding(u.shape[1], twin.config.first_position)
    incoming = _path(twin, table, sources, u, v, encoding)
    a = F.embedding(order, incoming.flatten(0, 1))  # (N, d)
    p = None if twin.config.positions == "none" else encoding[order // len(u)]
    chosen = None if candidates is None else candidates.transpose(0, 1).flatten(0, 1)[order]

    nll, rows = [], slice(0, 0)
    for energies in _energies(twin, table, sources, sizes, source, a, p):
        rows = slice(rows.stop, rows.stop + len(energies))
        some, true = source[rows], truth[rows]
        if chosen is None:
            log_weight = twin.log_weight[some, : energies.shape[1]]
            column = twin.column(some, true)
        else:
            energies = energies.gather(1, twin.column(some[:, None], chosen[rows]))
            log_weight = twin.log_prior(some[:, None], chosen[rows])
            column = torch.zeros_like(true)
        nll.append(nll_of(energies, log_weight, column, twin.log_prior(some, true)))
    return torch.cat(nll).mean()


def _path(
    twin: Twin, table: Pair | None, sources: Tensor, u: Tensor, v: Tensor, encoding: Tensor
) -> Tensor:
    """Signals that arrive along the path: (B, n), (B, n) -> (n, B, d) (eq. 1-7)."""
    n, memory = u.shape[1], twin.config.memory
    # All edges of the path in one gather, which has one backward pass. What the last edge
    # carries reaches nothing.
    row = twin.rank(sources)[u.T] if twin.composes else u.T
    weight, bias = twin.edges(table, row[:-1], v.T[:-1])  # (n - 1, B, d, d)
    bias = (bias + encoding[:-1, None])[:, :, None]  # (n - 1, B, 1, d)
    keep, gain, normaliser = _schedule(twin, n - 1)
    a = twin.start(u[:, 0])
    accumulator = a if memory == "leaky" else torch.zeros_like(a)
    incoming = [a]
    for i, (w, b) in enumerate(zip(weight.unbind(), bias.unbind(), strict=True)):
        a = twin.signal(torch.baddbmm(b, a[:, None], w)[:, 0])  # (B, 1, d) @ (B, d, d)
        if memory != "chain":
            accumulator = torch.addcmul(gain[i] * a, keep[i], accumulator)
            a = accumulator / normaliser[i]
        incoming.append(a)
    return torch.stack(incoming)


def _schedule(twin: Twin, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """keep, gain and the normalisers z_1 … z_n of equation 7, (n, d) or (n, 1) each."""
    one = torch.ones(n, 1, dtype=twin.dtype)
    if twin.config.memory == "leaky":
        decay = torch.sigmoid(twin.decay_logit)
        powers = decay ** torch.arange(n + 1, dtype=twin.dtype)[:, None]
        return decay.expand(n, -1), one, powers.cumsum(0)[1:]
    if twin.config.memory == "position":
        alpha = twin.position_logits[:n, None]
        top = alpha.detach().cummax(0).values  # no exponential overflows
        before = torch.cat([torch.full_like(top[:1], -torch.inf), top[:-1]])
        normaliser = torch.exp(torch.logcumsumexp(alpha, 0) - top)
        return torch.exp(before - top), torch.exp(alpha - top), normaliser
    return 0 * one, one, one


def _energies(
    twin: Twin,
    table: Pair | None,
    sources: Tensor,
    sizes: Tensor,
    source: Tensor,
    a: Tensor,
    p: Tensor | None,
) -> Iterator[Tensor]:
    """Energies (N, K) of all columns at each position, one run of groups after the other.

    Groups (G,) have ``sizes`` (G,) positions each; source (N,), signals a (N, d) and
    encodings p (N, d) come in their order.
    """
    # A run is of groups of one size. It is cut where the V answers of each position would
    # not stay in cache.
    piece = (sizes.cumsum(0) - sizes) // max(1, _PIECE // (twin.n_nodes * twin.d))
    _, n_groups = torch.unique_consecutive(piece * len(a) + sizes, return_counts=True)
    run = torch.repeat_interleave(n_groups)  # of each group

    weight, bias, widths, owner, column = _all_columns(twin, table, sources)
    owner = owner - (n_groups.cumsum(0) - n_groups)[run[owner]]  # number within the run
    n_columns = torch.zeros_like(n_groups).index_add_(0, run, widths).tolist()
    n_rows = torch.zeros_like(n_groups).index_add_(0, run, sizes).tolist()
    dendrite = None if table is not None else twin.dendrite_weight.transpose(0, 1).flatten(1)

    parts = [x.split(n_columns) for x in (weight, bias, owner, column)]
    rows = [x.split(n_rows) for x in (source, a)]
    encodings = [None] * len(n_rows) if p is None else p.split(n_rows)
    found, widest = [], int(widths.max())
    for n, w, b, own, col, src, x, q in zip(
        n_groups.tolist(), *parts, *rows, encodings, strict=True
    ):
        size = len(x) // n
        signals = _for_columns(x, n, own)  # (columns, size, d)
        common = b[:, None] if q is None else b[:, None] + _for_columns(q, n, own)
        # (columns, size, d) @ (columns, d, d): matrices stay as they are, none is transposed
        h = torch.baddbmm(common, signals, w)
        e = twin.energy(h.flatten(0, 1)).view(-1, size)
        row = own[:, None] * size + torch.arange(size)
        if dendrite is not None:
            yield _unseen(twin, dendrite, src, x, q).index_put((row, col[:, None]), e)
        elif n == 1:
            found.append(F.pad(e.T, (0, widest - len(e))))
        else:
            found.append(x.new_zeros(len(x), widest).index_put((row, col[:, None]), e))
    if found:
        yield torch.cat(found)


def _all_columns(
    twin: Twin, table: Pair | None, sources: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All edges that compete at the sources (G,), one source after the other.

    Returns
    -------
    weights (C, d, d) and biases (C, d) of the edges, how many each source has (G,), which source
    each belongs to (C,), counted from 0, and its column in the softmax there (C,)
    """
    if twin.composes and table is not None:
        widths = torch.full_like(sources, twin.n_nodes)
        owner, column = _ranges(widths)
        return table[0].unflatten(1, (twin.d, twin.d)), table[1], widths, owner, column
    widths = twin.degree[sources] + twin.shared
    owner, column = _ranges(widths)
    u = sources[owner]
    seen = column < twin.degree[u]
    target = torch.where(seen, twin.targets[twin.first[u] + column], twin.n_nodes)
    weight, bias = twin.edges(table, u, target)
    # A private edge of three parts takes its place among all without synapse.
    return weight, bias, widths, owner, column if twin.shared else target


def _unseen(twin: Twin, dendrite: Tensor, source: Tensor, a: Tensor, p: Tensor | None) -> Tensor:
    """Energies (N, V) of axon + dendrite (d, V d) alone: one product for all positions."""
    axon = F.embedding(source, twin.axon_weight.flatten(1)).unflatten(1, (twin.d, twin.d))
    own = torch.baddbmm(F.embedding(source, twin.axon_bias)[:, None], a[:, None], axon)
    if p is not None:
        own = own + p[:, None]
    h = torch.addmm(twin.dendrite_bias.flatten(), a, dendrite)
    h = h.view(len(a), twin.n_nodes, twin.d) + own
    return twin.energy(h.flatten(0, 1)).view(len(a), twin.n_nodes)


def _ranges(lengths: Tensor) -> Pair:
    """Ranges 0 … l-1 of all lengths (G,), one after the other: whose each is, and its number."""
    owner = torch.repeat_interleave(lengths)
    return owner, torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]


def _for_columns(x: Tensor, n_groups: int, owner: Tensor) -> Tensor:
    """Rows of groups of equal size (N, d), for each column those of its group: (K, size, d)."""
    if n_groups == 1:
        return x.expand(len(owner), -1, -1)
    return F.embedding(owner, x.view(n_groups, -1)).unflatten(1, (-1, x.shape[1]))
