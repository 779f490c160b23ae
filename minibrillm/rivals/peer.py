"""What the models that most people know have in common: losses, made of logits.

They read the same tokens in the same batches as `BriLLM`, and have its methods `nll` and
`max_positions`, so that the same functions of `minibrillm.scoring` score all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minibrillm.checks import UserError, as_documents
from minibrillm.rivals.pytorch import F, Tensor, nn, torch
from minibrillm.scoring import window_loss

Array = np.ndarray

_BATCH_POSITIONS = 16384  # scored at once


def check_size(config: Any, *names: str) -> None:
    """Refuse a config whose numbers of these names, or whose dropout, are impossible."""
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}; expected at least 1")
    if not 0 <= config.dropout < 1:
        raise UserError(f"dropout is {config.dropout}; expected at least 0 and below 1")


class Peer(nn.Module):
    """A model of PyTorch with the losses that are made of its logits; a subclass has these.

    Parameters
    ----------
    n_nodes : int
        V.
    width : int
        Numbers a token is made of. The embedding (V, width) is the output layer too.
    """

    max_positions: int | None = None  # edges it can cross from an empty memory; None: any number

    def __init__(self, n_nodes: int, width: int) -> None:
        super().__init__()
        self.n_nodes = n_nodes
        self.embedding = nn.Parameter(torch.empty(n_nodes, width))

    def logits(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits of each next token, (B, n) -> (B, n, V), and the memory after the last."""
        raise NotImplementedError

    def score(self, ids: Array | Sequence[Array]) -> float:
        """Mean nats per token of held-out text, read in the way that suits the model."""
        scored: Any = self  # it has of BriLLM what is asked there: `nll` and `max_positions`
        return window_loss(scored, ids)

    def _nll(self, tokens: Array, state: Any = None) -> tuple[Tensor, Any]:
        """−log p of every token but the first, (B, n + 1) -> (B, n), and the memory after."""
        ids = torch.as_tensor(np.asarray(tokens)).long()
        logits, state = self.logits(ids[:, :-1], state)
        nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return nll.view(len(ids), -1), state

    def loss(self, tokens: Array, weights: Array | None = None) -> Tensor:
        """Mean −log p(next token), in nats.

        Parameters
        ----------
        tokens : integers (B, n + 1)
        weights : array (B, n), optional
            What each position counts; 0: not at all.

        Returns
        -------
        Tensor ()
        """
        nll, _ = self._nll(tokens)
        if weights is None:
            return nll.mean()
        w = torch.as_tensor(weights, dtype=nll.dtype)
        return (nll * w).sum() / w.sum()

    @torch.inference_mode()
    def nll(self, tokens: Array, state: Any = None) -> tuple[Array, Any]:
        """−log p of every token but the first, as `BriLLM.nll`; without dropout.

        Parameters
        ----------
        tokens : integers (B, n + 1)
        state : optional
            The memory to go on with (LSTM only).

        Returns
        -------
        array (B, n), nats; the memory after the last token
        """
        training = self.training
        self.eval()
        nll, state = self._nll(tokens, state)
        self.train(training)
        return nll.numpy(), state

    @property
    def n_parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())


def sliding_loss(model: Peer, ids: Array | Sequence[Array]) -> float:
    """Mean nats per token of a model with a bounded context that slides on by half of itself.

    The first window (of a document) scores all its tokens, each later one those that no window
    before it has scored: they have at least half the context before them. The last window ends
    with the text. So every token but the first (of a document) is scored exactly once.
    """
    assert model.max_positions is not None
    context = model.max_positions
    stride = max(context // 2, 1)
    pieces: list[tuple[Array, int]] = []  # tokens, and how many of their edges are scored already
    for document in as_documents(ids):
        n_edges = len(document) - 1
        scored = 0
        while scored < n_edges:
            end = min(max(scored + stride, context), n_edges)
            first = max(end - context, 0)
            pieces.append((document[first : end + 1], scored - first))
            scored = end
    pieces.sort(key=lambda piece: -len(piece[0]))
    total, n_scored = 0.0, 0
    while pieces:
        n = len(pieces[0][0]) - 1
        at_once = max(1, _BATCH_POSITIONS // n)
        batch, pieces = pieces[:at_once], pieces[at_once:]
        tokens = np.stack([np.pad(p, (0, n + 1 - len(p)), mode="edge") for p, _ in batch])
        low, high = np.array([(scored, len(p) - 1) for p, scored in batch]).T[..., None]
        counts = (low <= np.arange(n)) & (np.arange(n) < high)
        total += float(model.nll(tokens)[0][counts].sum(dtype=np.float64))
        n_scored += int(counts.sum())
    return total / n_scored
