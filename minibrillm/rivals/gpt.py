"""A GPT: a decoder with learned positions, which sees a fixed number of tokens at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minibrillm.checks import UserError
from minibrillm.rivals.peer import Peer, check_size, sliding_loss
from minibrillm.rivals.pytorch import F, Tensor, nn, torch

Array = np.ndarray


@dataclass(frozen=True)
class GPTConfig:
    """Size of a GPT.

    Parameters
    ----------
    n_layers, n_heads, width : int
        Blocks, heads in each, and numbers a token is made of.
    context : int
        Tokens it sees at once.
    dropout : float
        Share of what each sub-layer adds, and of the embeddings, that is left out in training.
    """

    n_layers: int = 4
    n_heads: int = 4
    width: int = 128
    context: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_size(self, "n_layers", "n_heads", "width", "context")
        if self.width % self.n_heads:
            raise UserError(f"width {self.width} is no multiple of n_heads {self.n_heads}")


class Attention(nn.Module):
    """Every position looks at itself and at those before it, with several heads."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.inward = nn.Linear(width, 3 * width)
        self.outward = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, width) -> (B, n, width)."""
        # (B, n, 3 width) -> three of (B, heads, n, width / heads)
        q, k, v = self.inward(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.outward(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        d = config.width
        self.attention = Attention(d, config.n_heads)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, width) -> (B, n, width)."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(Peer):
    """GPT-1 scaled down (Radford et al. 2018): a decoder with learned positions.

    One thing is that of GPT-2: layers are normalised at their input, which trains better.
    Dropout leaves the attention weights alone, for the fast kernel has none there.

    Parameters
    ----------
    n_nodes : int
        V.
    config : GPTConfig
    seed : int
        Of the initial weights.
    """

    def __init__(self, n_nodes: int, config: GPTConfig, seed: int = 0) -> None:
        super().__init__(n_nodes, config.width)
        self.config, self.max_positions = config, config.context
        self.positions = nn.Parameter(torch.empty(config.context, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 2:
                    # What is added to x grows with the layers: less of each (GPT-2).
                    adds = name.endswith(("outward.weight", "mlp.2.weight"))
                    scale = (2 * config.n_layers) ** -0.5 if adds else 1.0
                    p.normal_(0, 0.02 * scale, generator=generator)
                elif name.endswith("bias"):
                    p.zero_()

    def logits(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Logits of each next token, (B, n) -> (B, n, V), n ≤ context."""
        n = tokens.shape[1]
        if n > self.config.context or state is not None:
            raise UserError(
                f"this GPT sees {self.config.context} tokens at once and keeps no memory; "
                "shorten the text"
            )
        x = self.dropout(F.embedding(tokens, self.embedding) + self.positions[:n])
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding), None

    def score(self, ids: Array | Sequence[Array]) -> float:
        """Mean nats per token, every token seen with at least half of the context before it."""
        return sliding_loss(self, ids)
