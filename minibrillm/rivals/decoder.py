"""Decoding that sums the whole past anew at every token."""

from __future__ import annotations

import numpy as np

from minibrillm.checks import UserError
from minibrillm.model import BriLLM
from minibrillm.rivals.per_step import resum
from minibrillm.rivals.pytorch import F, Tensor, torch
from minibrillm.rivals.twin import Twin


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
        a = resum(twin, self._past[: self._n_past]) if self._crossed else self._start[0]
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
