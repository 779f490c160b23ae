"""The same model in PyTorch: the same graph, weights, batch and loss, gradients by autograd.

It is a fair peer for a benchmark: what somebody who knows PyTorch well would write. Two layouts
give the same numbers:

    per_step   as the released code, but vectorised: at every position the matrices of all
               candidates are gathered, the whole past is summed again
    grouped    as `minibrillm.reference`: a path pass, then one matrix product for each source
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minibrillm.checks import UserError
from minibrillm.functional import position_encoding
from minibrillm.model import BriLLM
from minibrillm.rivals.energy import compiled_energy, energy_of
from minibrillm.rivals.grouped import grouped_loss
from minibrillm.rivals.per_step import per_step_loss
from minibrillm.rivals.pytorch import F, Tensor, nn, torch
from minibrillm.rivals.tables import graph_tables

LAYOUTS = {"per_step": per_step_loss, "grouped": grouped_loss}
KINDS = {"memory": ("chain", "position", "leaky"), "edges": ("shared", "three_part")}
Pair = tuple[Tensor, Tensor]
_PARTS_ABOVE = 1 << 18  # V d²: above, the parts of an edge are kept apart in the competition


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
        An unknown layout or kind of memory or edge; ``compiled`` where torch.compile does not work.
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
        for setting, known in KINDS.items():
            if getattr(model.config, setting) not in known:
                kind = getattr(model.config, setting)
                raise UserError(f"a twin does not know {setting} {kind!r}: {', '.join(known)}")
        self.config, self.layout = model.config, layout
        self.n_nodes, self.d = model.graph.n_nodes, model.config.d_node
        self.max_positions = model.max_positions
        self.shared = model.config.edges == "shared"  # else every edge has three parts
        self.composes = not self.shared and self.n_nodes * self.d**2 <= _PARTS_ABOVE
        for name, array in model.parameters.items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(array.copy())))
        self.dtype = next(self.parameters()).dtype
        for name, table in graph_tables(model.graph, self.shared).items():
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
        return LAYOUTS[self.layout](self, tokens[:, :-1], tokens[:, 1:], candidates)

    # ---------------------------------------------------------------- what both layouts ask for

    def edge_table(self, sources: Tensor) -> Pair | None:
        """Weights (S, d²) and biases (S, d) of which `edges` takes rows.

        Shared edges: all there are. Three parts: the edges from each of ``sources`` (G,) to all
        V nodes, composed; None if those would be too many.
        """
        if self.shared:
            return self.edge_weight.flatten(1), self.edge_bias
        if not self.composes:
            return None
        rank = self.rank(sources)
        known = (rank[self.sources] >= 0).nonzero()[:, 0]  # synapses
        place = rank[self.sources[known]] * self.n_nodes + self.targets[known]
        weight, bias = (
            (F.embedding(sources, axon)[:, None] + dendrite)
            .flatten(0, 1)
            .index_add_(0, place, F.embedding(known, synapse))
            for axon, dendrite, synapse in self._parts()
        )
        return weight, bias

    def rank(self, sources: Tensor) -> Tensor:
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

    def edges(self, table: Pair | None, u: Tensor, v: Tensor) -> Pair:
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
