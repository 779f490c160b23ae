"""An LSTM: a recurrent network with gates, which carries a memory of fixed size."""

from __future__ import annotations

from dataclasses import dataclass

from minibrillm.rivals.peer import Peer, check_size
from minibrillm.rivals.pytorch import F, Tensor, nn, torch


@dataclass(frozen=True)
class LSTMConfig:
    """Size of an LSTM: layers, numbers in each, share left out in training."""

    n_layers: int = 1
    width: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_size(self, "n_layers", "width")


class LSTM(Peer):
    """A recurrent network with gates (Hochreiter & Schmidhuber 1997), one layer or more.

    Parameters
    ----------
    n_nodes : int
        V.
    config : LSTMConfig
    seed : int
        Of the initial weights.
    """

    def __init__(self, n_nodes: int, config: LSTMConfig, seed: int = 0) -> None:
        super().__init__(n_nodes, config.width)
        self.config = config
        between = config.dropout if config.n_layers > 1 else 0.0
        self.layers = nn.LSTM(
            config.width, config.width, config.n_layers, batch_first=True, dropout=between
        )
        self.dropout = nn.Dropout(config.dropout)
        self.bias = nn.Parameter(torch.zeros(n_nodes))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.layers.named_parameters():
                p.uniform_(-(config.width**-0.5), config.width**-0.5, generator=generator)
                if "bias_hh" in name:  # gates: in, forget, cell, out; at first nothing is forgotten
                    p[config.width : 2 * config.width] = 1
            self.embedding.normal_(0, config.width**-0.5, generator=generator)

    def logits(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits of each next token, (B, n) -> (B, n, V), and the memory after the last."""
        x = self.dropout(F.embedding(tokens, self.embedding))
        x, state = self.layers(x, state)
        return F.linear(self.dropout(x), self.embedding, self.bias), state
