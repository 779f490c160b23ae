"""What the gradients of one step take besides the batch: negatives, dropout, rounding, counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minibrillm.checks import Network, Settings
from minibrillm.counting import KneserNey
from minibrillm.variance.dropout import dropout_mask
from minibrillm.variance.negatives import most_frequent_successors, with_negatives
from minibrillm.variance.rounding import Rounding

Array = np.ndarray


class Extras:
    """Keyword arguments of `BriLLM.loss_and_gradients`, drawn anew for every step.

    Parameters
    ----------
    model : BriLLM
    config : TrainConfig
    train_ids : list of integer arrays (N,)
        What an n-gram prior is made blind with (MODEL.md, "Leave one out").
    """

    def __init__(self, model: Network, config: Settings, train_ids: Sequence[Array]) -> None:
        self.config, graph = config, model.graph
        self.d, self.dtype = model.config.d_node, next(iter(model.parameters.values())).dtype
        self.successors = None
        if config.negatives:
            self.successors = most_frequent_successors(graph, config.negatives + 1)
        self.bigrams = None
        if config.leave_one_out and model.config.prior == "ngrams":
            self.bigrams = KneserNey.fit(train_ids, graph.n_nodes, 2)

    def leaves_one_out(self, step: int) -> bool:
        """Whether step number ``step``, from 0, is among the share that does; evenly spread."""
        share = self.config.leave_one_out
        return self.bigrams is not None and int((step + 1) * share) > int(step * share)

    def draw(self, tokens: Array, step: int, rng: np.random.Generator) -> dict[str, Any]:
        """For a batch (B, n + 1)."""
        extras: dict[str, Any] = {}
        if self.successors is not None:
            extras["candidates"] = with_negatives(tokens, self.successors)
        if self.leaves_one_out(step):
            extras["bigrams"] = self.bigrams
        if self.config.dropout:
            shape = len(tokens), self.d
            extras["mask"] = dropout_mask(self.config.dropout, *shape, self.dtype, rng)
        if self.config.round_below:
            draws = rng.random(tokens[:, 1:].shape)
            extras["rounding"] = Rounding(self.config.round_below, draws)
        return extras
