"""PyTorch twins of the model: the same graph, weights, batch and loss, gradients by autograd.

They are fair peers for a benchmark: what somebody who knows PyTorch well would write. Two layouts
give the same numbers:

    per_step   as the released code, but vectorised: at every position the matrices of all
               candidates are gathered, the whole past is summed again
    grouped    as `minibrillm.reference`: a path pass, then one matrix product for each source

torch is an optional extra, and only this module knows it. Without it, importing this module is a
`UserError` that says how to install it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minibrillm.checks import UserError
from minibrillm.config import TrainConfig
from minibrillm.functional import position_encoding
from minibrillm.model import BriLLM
from minibrillm.parameters import decays

# NumPy asks the system for huge pages of memory, PyTorch only where this is set: fairness.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # a broken installation: its own message says more
    raise UserError(
        'the rivals are written in PyTorch; install it with: pip install "minibrillm[torch]"'
    ) from None

if TYPE_CHECKING:
    from minibrillm.graph import TokenGraph

LAYOUTS = ("per_step", "grouped")
Pair = tuple[Tensor, Tensor]
_PARTS_ABOVE = 1 << 18  # V d²: above, the parts of an edge are kept apart in the competition
_PIECE = 1 << 21  # pre-activations of V answers that go through all operations while in cache


def set_threads(n: int) -> None:
    """Let PyTorch use n threads in each operation."""
    torch.set_num_threads(n)


# ----------------------------------------------------------------------------------------- energy


class _Norm(torch.autograd.Function):
    """‖y‖₂ over the last axis, back in one pass over y where PyTorch's own takes three."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(y, dim=-1)
        ctx.save_for_backward(y, norm)
        return norm

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, norm = ctx.saved_tensors
        # Where the norm is 0, so is y: the gradient is 0 (eq. 11) whatever the divisor.
        return y * (gradient / norm.clamp_min(1e-30))[..., None]


def energy_of(h: Tensor) -> Tensor:
    """Energy of the answers to pre-activations: ‖gelu(h)‖₂, (P, d) -> (P,) (MODEL.md, eq. 5)."""
    return _Norm.apply(F.gelu(h))


def compiled_energy(d: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """`energy_of` by ``torch.compile``, forward and backward, compiled once for any number of rows.

    Raises
    ------
    UserError
        The machine has no C++ compiler, or the like.
    """

    def fused(h: Tensor) -> Tensor:
        return torch.linalg.vector_norm(F.gelu(h), dim=-1)

    probe = torch.ones(64, d, dtype=dtype, requires_grad=True)
    try:
        compiled = torch.compile(fused, dynamic=False)
        torch._dynamo.mark_dynamic(probe, 0)
        compiled(probe).sum().backward()
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"torch.compile does not work on this machine ({reason}); "
            "install a C++ compiler, or go without it"
        ) from None
    # No or one row would be compiled anew.
    return lambda h: compiled(h) if len(h) > 1 else energy_of(h)


# ------------------------------------------------------------------------------------- the model


class Twin(nn.Module):
    """A `BriLLM` as a PyTorch module; `forward` is its mean loss (MODEL.md, eq. 1-10).

    The parameters have the names and shapes of the model's; they are copies, in its precision.
    Autograd keeps all pre-activations of a batch, and in ``per_step`` every gathered matrix as
    well, n B K d² numbers for n positions of B sequences with K columns: 2.3 GB for 64, 128 and
    66 at d = 32. Index tables of V² entries suit vocabularies of some thousands.

    Parameters
    ----------
    model : BriLLM
    layout : "per_step" or "grouped"
    compiled : bool
        Fuse activation and energy, and their gradients, with ``torch.compile``.

    Raises
    ------
    UserError
        An unknown layout; ``compiled`` where torch.compile does not work.
    """

    # Which parameters exist depends on the config: MODEL.md, "Objects".
    edge_weight: nn.Parameter
    edge_bias: nn.Parameter
    axon_weight: nn.Parameter
    axon_bias: nn.Parameter
    dendrite_weight: nn.Parameter
    dendrite_bias: nn.Parameter
    synapse_weight: nn.Parameter
    synapse_bias: nn.Parameter
    node_bias: nn.Parameter
    position_logits: nn.Parameter
    decay_logit: nn.Parameter
    log_bound: nn.Parameter
    # The graph. The class of unseen targets goes by the number V.
    slot: Tensor  # (V, V + 1) index of the private edge plus 1; 0: none
    first: Tensor  # (V,) index of the first private edge of each source
    degree: Tensor  # (V,) out-degree
    sources: Tensor  # (E,) source of each private edge
    targets: Tensor  # (E + 1,) its target; then V
    columns: Tensor  # (V, K) targets that compete at each source, filled up with V
    log_weight: Tensor  # (V, K) what they weigh in the full softmax (eq. 9)
    prior: Tensor | None  # (V, V) π

    def __init__(self, model: BriLLM, layout: str = "grouped", compiled: bool = False) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise UserError(f"there is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
        if model.graph.ngrams is not None:
            raise UserError("a twin knows no prior of n-grams; take the preset 'mini'")
        self.config, self.layout = model.config, layout
        self.n_nodes, self.d = model.graph.n_nodes, model.config.d_node
        self.max_positions = model.max_positions
        self.shared = model.config.edges == "shared"  # else every edge has three parts
        self.composes = not self.shared and self.n_nodes * self.d**2 <= _PARTS_ABOVE
        for name, array in model.parameters.items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(array.copy())))
        self.dtype = next(self.parameters()).dtype
        for name, table in _tables(model.graph, self.shared).items():
            kept = None if table is None else torch.from_numpy(table)
            if kept is not None and kept.is_floating_point():
                kept = kept.to(self.dtype)
            self.register_buffer(name, kept, persistent=False)
        self.energy = compiled_energy(self.d, self.dtype) if compiled else energy_of

    def forward(
        self, tokens: np.ndarray | Tensor, candidates: np.ndarray | Tensor | None = None
    ) -> Tensor:
        """Mean −log p(next token), in nats.

        Parameters
        ----------
        tokens : integers (B, n + 1)
        candidates : integers (B, n, C), optional
            Targets in the softmax, the true one first; all V without it.

        Returns
        -------
        Tensor ()
        """
        tokens = torch.as_tensor(tokens).long()
        if self.max_positions is not None and tokens.shape[1] - 1 > self.max_positions:
            raise UserError(f"this model knows {self.max_positions} positions; shorten the text")
        if candidates is not None:
            candidates = torch.as_tensor(candidates).long()
        run = self._per_step if self.layout == "per_step" else self._grouped
        return run(tokens[:, :-1], tokens[:, 1:], candidates)

    # ------------------------------------------------------------------------- what both share

    def _table(self, sources: Tensor) -> Pair | None:
        """Weights (S, d²) and biases (S, d) of which `_edges` takes rows.

        Shared edges: all there are. Three parts: the edges from each of ``sources`` (G,) to all
        V nodes, composed; None if those would be too many.
        """
        if self.shared:
            return self.edge_weight.flatten(1), self.edge_bias
        if not self.composes:
            return None
        rank = self._rank(sources)
        known = (rank[self.sources] >= 0).nonzero()[:, 0]  # synapses
        place = rank[self.sources[known]] * self.n_nodes + self.targets[known]
        weight, bias = (
            (F.embedding(sources, axon)[:, None] + dendrite)
            .flatten(0, 1)
            .index_add_(0, place, F.embedding(known, synapse))
            for axon, dendrite, synapse in self._parts()
        )
        return weight, bias

    def _rank(self, sources: Tensor) -> Tensor:
        """Place of each node among ``sources`` (G,), -1 where it has none: (V,)."""
        rank = torch.full((self.n_nodes,), -1)
        rank[sources] = torch.arange(len(sources))
        return rank

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Axons, dendrites and synapses: first the weights (·, d²), then the biases (·, d)."""
        weights = self.axon_weight, self.dendrite_weight, self.synapse_weight
        axon, dendrite, synapse = (x.flatten(1) for x in weights)
        yield axon, dendrite, synapse
        yield self.axon_bias, self.dendrite_bias, self.synapse_bias

    def _edges(self, table: Pair | None, u: Tensor, v: Tensor) -> Pair:
        """Weights (..., d, d) and biases (..., d) of the edges u→v; shapes broadcast (eq. 3).

        In a table of composed edges u counts its sources. F.embedding takes rows as indexing
        does, but finds the gradient several times faster.
        """
        if table is not None:
            index = self.slot[u, v] if self.shared else u * self.n_nodes + v
            weight, bias = (F.embedding(index, rows) for rows in table)
        else:
            slot = self.slot[u, v]
            weight, bias = (
                F.embedding(u, axon)
                + F.embedding(v, dendrite)
                + F.embedding((slot - 1).clamp_min(0), synapse) * (slot > 0)[..., None]
                for axon, dendrite, synapse in self._parts()
            )
        return weight.unflatten(-1, (self.d, self.d)), bias

    def column(self, u: Tensor, v: Tensor) -> Tensor:
        """Column in which target v competes at source u; the class of unseen ones comes last."""
        slot = self.slot[u, v]
        if not self.shared:
            return v.expand(slot.shape)
        return torch.where(slot > 0, slot - 1 - self.first[u], self.degree[u])

    def log_prior(self, u: Tensor, v: Tensor) -> Tensor:
        """π(v|u), in the broadcast shape."""
        slot = self.slot[u, v]
        return torch.zeros(slot.shape, dtype=self.dtype) if self.prior is None else self.prior[u, v]

    def start(self, nodes: Tensor) -> Tensor:
        """r_0 of sequences that begin at ``nodes``: (B,) -> (B, d) (eq. 1)."""
        if self.config.start == "ones":
            return torch.ones(len(nodes), self.d, dtype=self.dtype)
        return F.gelu(1 / self.d + self.node_bias[nodes] + self.encoding(1, first=0))

    def signal(self, h: Tensor) -> Tensor:
        """What goes on along the path, of pre-activations (..., d) (eq. 6)."""
        return self.bounded(F.gelu(h))

    def bounded(self, y: Tensor) -> Tensor:
        """Answers (..., d), the loud ones turned down (eq. 6)."""
        if self.config.signal_bound == 0:
            return y
        return y * torch.rsqrt(1 + (y / self.log_bound.exp()).square().sum(-1, keepdim=True))

    def encoding(self, n: int, first: int) -> Tensor:
        """P_first … P_{first+n-1}, (n, d)."""
        rows = position_encoding(self.config.positions, first, n, self.d)
        return torch.from_numpy(rows).to(self.dtype)

    # ---------------------------------------------------------------------- layout of the release

    def _per_step(self, u: Tensor, v: Tensor, candidates: Tensor | None) -> Tensor:
        """Gather, multiply, compare: one position after the other, all sequences at once."""
        n = u.shape[1]
        table = self._table(torch.arange(self.n_nodes))
        encoding = self.encoding(n, self.config.first_position)
        widest = int(self.degree[u].max()) + 1 if self.shared else self.n_nodes
        a = self.start(u[:, 0])
        past = [a] if self.config.memory == "leaky" else []  # the others do not remember r_0
        everyone = torch.arange(len(a))
        nll = []
        for i in range(n):
            source, truth = u[:, i], v[:, i]
            if i > 0:
                a = self.resum(torch.stack(past, dim=1))
            if candidates is None:
                column = self.column(source, truth)
                targets = self.columns[source, :widest]  # (B, K)
                log_weight = self.log_weight[source, :widest]
            else:
                column, targets = torch.zeros_like(truth), candidates[:, i]
                log_weight = self.log_prior(source[:, None], targets)
            weight, bias = self._edges(table, source[:, None], targets)
            # (B, 1, 1, d) @ (B, K, d, d) -> (B, K, 1, d)
            h = (a[:, None, None] @ weight)[:, :, 0] + bias + encoding[i]
            energies = self.energy(h.flatten(0, 1)).view(h.shape[:2])
            nll.append(_nll(energies, log_weight, column, self.log_prior(source, truth)))
            past.append(self.signal(h[everyone, column]))
        return torch.stack(nll).mean()

    def resum(self, past: Tensor) -> Tensor:
        """a_i from all that is remembered, weighted and summed anew: (..., T, d) -> (..., d).

        Equation 7 unrolled. T is i, or i + 1 where r_0 is remembered too (leaky).
        """
        n_past = past.shape[-2]
        if self.config.memory == "chain":
            return past[..., -1, :]
        if self.config.memory == "position":
            return torch.softmax(self.position_logits[:n_past], dim=0) @ past
        age = torch.arange(n_past - 1, -1, -1, dtype=self.dtype)[:, None]
        weights = torch.sigmoid(self.decay_logit) ** age  # (T, d)
        return (weights * past).sum(dim=-2) / weights.sum(dim=0)

    # -------------------------------------------------------------------------------- our layout

    def _grouped(self, u: Tensor, v: Tensor, candidates: Tensor | None) -> Tensor:
        """The path pass, then all positions grouped by source.

        Groups of equal size stand side by side, so that one batched product serves them all.
        """
        nodes = u.T.flatten()  # position after position
        order = torch.argsort(torch.bincount(nodes)[nodes] * self.n_nodes + nodes, stable=True)
        source, truth = nodes[order], v.T.flatten()[order]
        sources, sizes = torch.unique_consecutive(source, return_counts=True)
        table = self._table(sources)
        encoding = self.encoding(u.shape[1], self.config.first_position)
        incoming = self._path(table, sources, u, v, encoding)
        a = F.embedding(order, incoming.flatten(0, 1))  # (N, d)
        p = None if self.config.positions == "none" else encoding[order // len(u)]
        chosen = None if candidates is None else candidates.transpose(0, 1).flatten(0, 1)[order]

        nll, rows = [], slice(0, 0)
        for energies in self._energies(table, sources, sizes, source, a, p):
            rows = slice(rows.stop, rows.stop + len(energies))
            some, true = source[rows], truth[rows]
            if chosen is None:
                log_weight = self.log_weight[some, : energies.shape[1]]
                column = self.column(some, true)
            else:
                energies = energies.gather(1, self.column(some[:, None], chosen[rows]))
                log_weight = self.log_prior(some[:, None], chosen[rows])
                column = torch.zeros_like(true)
            nll.append(_nll(energies, log_weight, column, self.log_prior(some, true)))
        return torch.cat(nll).mean()

    def _path(
        self, table: Pair | None, sources: Tensor, u: Tensor, v: Tensor, encoding: Tensor
    ) -> Tensor:
        """Signals that arrive along the path: (B, n), (B, n) -> (n, B, d) (eq. 1-7)."""
        n, memory = u.shape[1], self.config.memory
        # All edges of the path in one gather, which has one backward pass. What the last edge
        # carries reaches nothing.
        row = self._rank(sources)[u.T] if self.composes else u.T
        weight, bias = self._edges(table, row[:-1], v.T[:-1])  # (n - 1, B, d, d)
        bias = (bias + encoding[:-1, None])[:, :, None]  # (n - 1, B, 1, d)
        keep, gain, normaliser = self._schedule(n - 1)
        a = self.start(u[:, 0])
        accumulator = a if memory == "leaky" else torch.zeros_like(a)
        incoming = [a]
        for i, (w, b) in enumerate(zip(weight.unbind(), bias.unbind(), strict=True)):
            a = self.signal(torch.baddbmm(b, a[:, None], w)[:, 0])  # (B, 1, d) @ (B, d, d)
            if memory != "chain":
                accumulator = torch.addcmul(gain[i] * a, keep[i], accumulator)
                a = accumulator / normaliser[i]
            incoming.append(a)
        return torch.stack(incoming)

    def _schedule(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """keep, gain and the normalisers z_1 … z_n of equation 7, (n, d) or (n, 1) each."""
        one = torch.ones(n, 1, dtype=self.dtype)
        if self.config.memory == "leaky":
            decay = torch.sigmoid(self.decay_logit)
            powers = decay ** torch.arange(n + 1, dtype=self.dtype)[:, None]
            return decay.expand(n, -1), one, powers.cumsum(0)[1:]
        if self.config.memory == "position":
            alpha = self.position_logits[:n, None]
            top = alpha.detach().cummax(0).values  # no exponential overflows
            before = torch.cat([torch.full_like(top[:1], -torch.inf), top[:-1]])
            normaliser = torch.exp(torch.logcumsumexp(alpha, 0) - top)
            return torch.exp(before - top), torch.exp(alpha - top), normaliser
        return 0 * one, one, one

    def _energies(
        self,
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
        piece = (sizes.cumsum(0) - sizes) // max(1, _PIECE // (self.n_nodes * self.d))
        _, n_groups = torch.unique_consecutive(piece * len(a) + sizes, return_counts=True)
        run = torch.repeat_interleave(n_groups)  # of each group

        composed = table if self.composes else None
        widths = torch.full_like(sources, self.n_nodes)
        if composed is None:
            widths = self.degree[sources] + self.shared
        owner, column = _ranges(widths)  # group of each column, and its number there
        if composed is not None:
            weight, bias = composed[0].unflatten(1, (self.d, self.d)), composed[1]
        else:
            u = sources[owner]
            seen = column < self.degree[u]
            target = torch.where(seen, self.targets[self.first[u] + column], self.n_nodes)
            weight, bias = self._edges(table, u, target)
            if not self.shared:
                column = target  # a private edge takes its place among all without synapse
        owner = owner - (n_groups.cumsum(0) - n_groups)[run[owner]]  # number within the run
        n_columns = torch.zeros_like(n_groups).index_add_(0, run, widths).tolist()
        n_rows = torch.zeros_like(n_groups).index_add_(0, run, sizes).tolist()
        dendrite = None if table is not None else self.dendrite_weight.transpose(0, 1).flatten(1)

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
            e = self.energy(h.flatten(0, 1)).view(-1, size)
            row = own[:, None] * size + torch.arange(size)
            if dendrite is not None:
                yield self._unseen(dendrite, src, x, q).index_put((row, col[:, None]), e)
            elif n == 1:
                found.append(F.pad(e.T, (0, widest - len(e))))
            else:
                found.append(x.new_zeros(len(x), widest).index_put((row, col[:, None]), e))
        if found:
            yield torch.cat(found)

    def _unseen(self, dendrite: Tensor, source: Tensor, a: Tensor, p: Tensor | None) -> Tensor:
        """Energies (N, V) of axon + dendrite (d, V d) alone: one product for all positions."""
        axon = F.embedding(source, self.axon_weight.flatten(1)).unflatten(1, (self.d, self.d))
        own = torch.baddbmm(F.embedding(source, self.axon_bias)[:, None], a[:, None], axon)
        if p is not None:
            own = own + p[:, None]
        h = torch.addmm(self.dendrite_bias.flatten(), a, dendrite)
        h = h.view(len(a), self.n_nodes, self.d) + own
        return self.energy(h.flatten(0, 1)).view(len(a), self.n_nodes)


def _tables(graph: TokenGraph, shared: bool) -> dict[str, np.ndarray | None]:
    """The tables of a graph that `Twin` keeps, by name."""
    n_nodes, degree = graph.n_nodes, graph.out_degree
    slot = np.zeros((n_nodes, n_nodes + 1), np.int64)
    slot[graph.sources, graph.targets] = np.arange(graph.n_edges) + 1
    prior = None
    if graph.prior is not None:
        prior = np.stack([graph.prior.row(u) for u in range(n_nodes)])
    log_weight = np.zeros((n_nodes, n_nodes)) if prior is None else prior
    columns = np.broadcast_to(np.arange(n_nodes), log_weight.shape).copy()
    if shared:
        everyone = log_weight
        columns = np.full((n_nodes, degree.max() + 1), n_nodes)
        log_weight = np.full(columns.shape, -np.inf)
        for u, n in enumerate(degree):
            own = graph.targets[graph.indptr[u] : graph.indptr[u + 1]]
            columns[u, :n] = own
            log_weight[u, :n] = everyone[u, own]
            log_weight[u, n] = graph.log_unseen_weight[u]
    return {
        "slot": slot,
        "first": graph.indptr[:-1],
        "degree": degree,
        "sources": graph.sources,
        "targets": np.append(graph.targets, n_nodes),
        "columns": columns,
        "log_weight": log_weight,
        "prior": prior,
    }


def _ranges(lengths: Tensor) -> Pair:
    """Ranges 0 … l-1 of all lengths (G,), one after the other: whose each is, and its number."""
    owner = torch.repeat_interleave(lengths)
    return owner, torch.arange(len(owner)) - (lengths.cumsum(0) - lengths)[owner]


def _for_columns(x: Tensor, n_groups: int, owner: Tensor) -> Tensor:
    """Rows of groups of equal size (N, d), for each column those of its group: (K, size, d)."""
    if n_groups == 1:
        return x.expand(len(owner), -1, -1)
    return F.embedding(owner, x.view(n_groups, -1)).unflatten(1, (-1, x.shape[1]))


def _nll(energies: Tensor, log_weight: Tensor, column: Tensor, log_prior: Tensor) -> Tensor:
    """−log p of the truth: (N, K), (N, K), (N,), (N,) -> (N,) (eq. 8-10).

    ``log_prior`` is the truth's own π: a column may stand for a class.
    """
    truth = energies.gather(1, column[:, None])[:, 0] + log_prior
    return torch.logsumexp(energies + log_weight, dim=1) - truth


# ----------------------------------------------------------------------------------- training it


class TwinTrainer:
    """Takes the steps of `minibrillm.optim.AdamW` with PyTorch's own optimiser.

    Parameters
    ----------
    twin : Twin
        Updated in place.
    config : TrainConfig
        Its optimiser settings; the learning rate is given step by step.
    """

    def __init__(self, twin: Twin, config: TrainConfig) -> None:
        self.twin, self.config = twin, config
        self.n_steps = 0
        self.weights = dict(twin.named_parameters())
        groups = [
            {
                "params": [p for name, p in self.weights.items() if decays(name) == decaying],
                "weight_decay": config.weight_decay if decaying else 0.0,
            }
            for decaying in (True, False)
        ]
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
        # The moving average of the weights, which is what one evaluates; without one, themselves.
        self.average = {name: p.detach() for name, p in self.weights.items()}
        if config.average_decay:
            self.average = {name: p.clone() for name, p in self.average.items()}
        self._frozen = []
        if twin.shared and not twin.config.train_shared_edge:
            self._frozen = [twin.edge_weight, twin.edge_bias]

    def step(
        self,
        tokens: np.ndarray | Tensor,
        rate: float,
        candidates: np.ndarray | Tensor | None = None,
    ) -> float:
        """One step of training on tokens (B, n + 1) at a learning rate; returns the loss before."""
        config = self.config
        self.optimiser.zero_grad()
        loss = self.twin(tokens, candidates)
        loss.backward()
        kept = [p.detach()[0].clone() for p in self._frozen]
        for p in self._frozen:
            assert p.grad is not None
            p.grad[0] = 0
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.weights.values(), config.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        with torch.no_grad():
            for p, value in zip(self._frozen, kept, strict=True):
                p[0] = value  # weight decay has moved it
            self.n_steps += 1
            if config.average_decay:
                decay = min(config.average_decay, (1 + self.n_steps) / (10 + self.n_steps))
                torch._foreach_lerp_(
                    list(self.average.values()), list(self.weights.values()), 1 - decay
                )
        return float(loss.detach())


# --------------------------------------------------------------------------------------- decoding


class PerStepDecoder:
    """Decoding as the released code does, vectorised: every new token sums the whole past again.

    All signals of the past are kept, (T, d). At each token their weights are found and summed
    anew, the matrices of the columns that compete at the node are gathered and multiplied; the
    answer of the token that then comes joins the past.

    Parameters
    ----------
    model : BriLLM
    """

    def __init__(self, model: BriLLM) -> None:
        self.model = model
        self.twin = Twin(model, "per_step")
        self._everyone = torch.arange(model.graph.n_nodes)
        self._crossed = 0  # edges
        self._node = torch.tensor(0)
        self._start = self._answers = torch.empty(0)
        self._past = torch.empty(0, model.config.d_node)
        self._n_past = 0

    @torch.inference_mode()
    def read(self, tokens: np.ndarray) -> Tensor:
        """Begin with a text (T,): energy + prior of every node as the next token, (V,).

        The past comes from the model's own path pass: a long context is there at once, and what
        this class stands for is `step`.
        """
        tokens = np.asarray(tokens)
        self._start = self.twin.start(torch.as_tensor(tokens[:1]).long())  # (1, d)
        self._past = self._start if self.twin.config.memory == "leaky" else self._start[:0]
        if len(tokens) > 1:
            signals = torch.from_numpy(self.model.path(tokens).signal[0])
            self._past = torch.cat([self._past, signals])
        self._n_past = len(self._past)
        self._crossed = len(tokens) - 1
        return self._compete(int(tokens[-1]))

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Go to the next node: energy + prior of every node after it, (V,)."""
        limit = self.twin.max_positions
        if limit is not None and self._crossed >= limit:
            raise UserError(f"this model knows {limit} positions; begin anew with read")
        if self._n_past == len(self._past):  # doubled now and then, not copied at every token
            self._past = torch.cat([self._past, torch.empty_like(self._past), self._start])
        answer = self._answers[self.twin.column(self._node, torch.tensor(token))]
        self._past[self._n_past] = self.twin.bounded(answer)
        self._n_past += 1
        self._crossed += 1
        return self._compete(token)

    def _compete(self, node: int) -> Tensor:
        """Logits (V,) at a node; keeps the answers of its columns for the next step."""
        twin = self.twin
        self._node = torch.tensor(node)
        a = twin.resum(self._past[: self._n_past]) if self._crossed else self._start[0]
        low = int(twin.first[node])
        high = low + int(twin.degree[node])
        if twin.shared:
            slots = twin.slot[node, twin.columns[node, : high - low + 1]]
            weight, bias = twin.edge_weight[slots], twin.edge_bias[slots]
        else:
            own = twin.targets[low:high]
            weight = twin.axon_weight[node] + twin.dendrite_weight
            bias = twin.axon_bias[node] + twin.dendrite_bias
            weight.index_add_(0, own, twin.synapse_weight[low:high])
            bias.index_add_(0, own, twin.synapse_bias[low:high])
        h = a @ weight + bias  # (d,) @ (K, d, d) -> (K, d)
        if twin.config.positions != "none":
            h += twin.encoding(1, self._crossed + twin.config.first_position)
        self._answers = F.gelu(h)
        energies = torch.linalg.vector_norm(self._answers, dim=1)
        column = twin.column(self._node, self._everyone)
        return energies[column] + twin.log_prior(self._node, self._everyone)
