"""Models that most people know, as strong as we can make them in a few minutes: a GPT, an LSTM.

They read the same tokens in the same batches as `BriLLM`, and have its methods `nll` and
`max_positions`, so that the same functions of `minibrillm.judging.evaluation` score all of them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minibrillm.checks import UserError, as_documents
from minibrillm.config import TrainConfig
from minibrillm.optim import learning_rate
from minibrillm.presets import MANY_NODES
from minibrillm.rivals.twins import F, Tensor, nn, torch  # says how to install it, if need be
from minibrillm.scoring import window_loss
from minibrillm.text import Windows
from minibrillm.training import Record, curve_part

Array = np.ndarray

_BATCH_POSITIONS = 16384  # scored at once


# ------------------------------------------------------------------------------------- the models


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
        _check_sizes(self, "n_layers", "n_heads", "width", "context")
        if self.width % self.n_heads:
            raise UserError(f"width {self.width} is no multiple of n_heads {self.n_heads}")


@dataclass(frozen=True)
class LSTMConfig:
    """Size of an LSTM: layers, numbers in each, share left out in training."""

    n_layers: int = 1
    width: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_sizes(self, "n_layers", "width")


def _check_sizes(config: GPTConfig | LSTMConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}; expected at least 1")
    if not 0 <= config.dropout < 1:
        raise UserError(f"dropout is {config.dropout}; expected at least 0 and below 1")


class Peer(nn.Module):
    """What both share: losses, made of the logits of the subclass.

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


# ------------------------------------------------------------------------------------- evaluation


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


# --------------------------------------------------------------------------------------- training


class PeerTrainer:
    """Trains a peer as `minibrillm.training.Trainer` trains ours: same batches, same clock.

    What is measured on the way does not count as time. AdamW decays matrices only. The moving
    average of the weights is evaluated, at the end the weights themselves too; `model` holds what
    did best on the held-out text.

    Parameters
    ----------
    peer : Peer
        Its weights are the starting point.
    train_ids, heldout_ids : integer arrays (N,), or sequences of them
        Streams, or documents, whose ends no window crosses (`minibrillm.text.Windows`).
    config : TrainConfig
        ``negatives`` and ``checkpoint_every`` do not matter.
    """

    def __init__(
        self,
        peer: Peer,
        train_ids: Array | Sequence[Array],
        heldout_ids: Array | Sequence[Array],
        config: TrainConfig,
    ) -> None:
        limit = peer.max_positions
        if limit is not None and config.sequence_length > limit:
            raise UserError(
                f"sequence_length is {config.sequence_length}, but the model sees {limit} tokens"
            )
        self.config, self.learner = config, peer
        self.averaged, self.model = copy.deepcopy(peer), copy.deepcopy(peer)
        self.kept_loss = math.inf
        self.windows = Windows(train_ids, config.sequence_length)
        self.heldout_ids = curve_part(as_documents(heldout_ids))
        self.rng = np.random.default_rng([config.seed, 1])
        self.weights = list(peer.parameters())
        self.average = [p.data for p in self.averaged.parameters()]
        matrices = [p for p in self.weights if p.ndim > 1]
        others = [p for p in self.weights if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
        self.step = 0
        self.seconds = 0.0
        self.history: list[Record] = []

    @property
    def progress(self) -> float:
        """Share of the run that is over, by steps or by time, whichever is further."""
        config = self.config
        by_steps = 0.0 if config.steps is None else self.step / config.steps
        by_time = 0.0 if config.minutes is None else self.seconds / (60 * config.minutes)
        return max(by_steps, by_time)

    def train_step(self) -> Record:
        """Draw a batch, find the gradients, update; a loss that is not finite is a `UserError`."""
        config = self.config
        rate = learning_rate(config, self.step, self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss = self.learner.loss(*self.windows.draw(config.batch_size, self.rng))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, config.clip_norm or math.inf).item()
        if not math.isfinite(norm):
            raise UserError(f"the gradient's norm became {norm} at step {self.step + 1}")
        self.optimiser.step()
        self.step += 1
        decay = min(config.average_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.data for p in self.weights], 1 - decay)
        positions = config.batch_size * config.sequence_length
        return Record(self.step, self.seconds, self.step * positions, rate, loss.item(), norm)

    def train(self, on_step: Callable[[Record], None] | None = None) -> list[Record]:
        """Train to the end of the run and return the history."""
        config = self.config
        self._warm_up()
        with _dropout_from(config.seed):
            while self.progress < 1:
                began = time.perf_counter()
                record = self.train_step()
                self.seconds += time.perf_counter() - began
                every = config.evaluate_every
                heldout = math.nan
                if self.progress >= 1:
                    heldout = min(self._score(self.averaged), self._score(self.learner))
                elif every and self.step % every == 0:
                    heldout = self._score(self.averaged)
                record = Record(
                    **{**vars(record), "seconds": self.seconds, "heldout_loss": heldout}
                )
                self.history.append(record)
                if on_step is not None:
                    on_step(record)
        return self.history

    def _warm_up(self) -> None:
        """Let PyTorch prepare what the loop calls, before the clock starts."""
        tokens = np.zeros((self.config.batch_size, self.config.sequence_length + 1), np.int64)
        self.learner.loss(tokens).backward()
        self.model.nll(tokens)

    def _score(self, candidate: Peer) -> float:
        """Held-out loss; what did better than all before is kept."""
        loss = candidate.score(self.heldout_ids)
        if loss < self.kept_loss:
            self.kept_loss = loss
            self.model.load_state_dict(candidate.state_dict())
        return loss


@contextmanager
def _dropout_from(seed: int) -> Iterator[None]:
    """Dropout knows PyTorch's global generator only: seed it, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# ---------------------------------------------------------------------------------------- recipes


class Recipe(NamedTuple):
    """A model's size, and the settings of `TrainConfig` that suit it."""

    size: GPTConfig | LSTMConfig
    training: dict[str, Any]

    def build(self, n_nodes: int, seed: int = 0) -> Peer:
        """A fresh model of V nodes."""
        if isinstance(self.size, GPTConfig):
            return GPT(n_nodes, self.size, seed)
        return LSTM(n_nodes, self.size, seed)

    def train_config(self, **limits: Any) -> TrainConfig:
        """The settings of its training; ``minutes``, ``steps``, ``seed`` are given."""
        return TrainConfig(**{**_TRAINING, **self.training, **limits})

    def to_json(self) -> dict[str, Any]:
        """Both in one plain dictionary."""
        return {**vars(self.size), **self.training}


_TRAINING: dict[str, Any] = {"warmup_steps": 100, "weight_decay": 0.1}


def _gpt(
    n_layers: int, width: int, context: int, batch_size: int, rate: float, dropout: float = 0.0
) -> Recipe:
    heads = max(width // 32, 1)
    training = {"batch_size": batch_size, "sequence_length": context, "learning_rate": rate}
    return Recipe(GPTConfig(n_layers, heads, width, context, dropout), training)


# The likeliest first, from one run of about a minute each, by the validation part: letters on tiny
# Shakespeare, many nodes on Yuan poems with 2,048. Small, fast and at a high rate is what a minute
# rewards; the larger ones are for longer runs.
_GPT_LETTERS = (
    _gpt(2, 96, 64, 16, 1.2e-2),
    _gpt(2, 96, 32, 32, 1e-2),
    _gpt(2, 128, 64, 16, 8e-3),
    _gpt(3, 128, 64, 16, 4e-3),
)
_GPT_MANY = (
    _gpt(2, 128, 64, 16, 2e-3),
    _gpt(2, 128, 32, 32, 3e-3),
    _gpt(2, 192, 64, 16, 1.5e-3),
    _gpt(2, 128, 32, 16, 2e-3),
)


def gpt_recipes(n_nodes: int) -> tuple[Recipe, ...]:
    """GPTs to choose from on the validation part, for a vocabulary of V nodes."""
    return _GPT_MANY if n_nodes > MANY_NODES else _GPT_LETTERS


def _lstm(
    width: int, batch_size: int, rate: float, dropout: float = 0.0, n_layers: int = 1
) -> Recipe:
    training = {"batch_size": batch_size, "sequence_length": 64, "learning_rate": rate}
    return Recipe(LSTMConfig(n_layers, width, dropout), training)


_LSTM_LETTERS = (_lstm(256, 16, 8e-3), _lstm(320, 16, 6e-3, 0.1), _lstm(384, 32, 6e-3, 0.2))
_LSTM_MANY = (_lstm(256, 16, 4e-3), _lstm(256, 32, 6e-3, 0.2), _lstm(384, 32, 4e-3, 0.3))


def lstm_recipes(n_nodes: int) -> tuple[Recipe, ...]:
    """LSTMs to choose from on the validation part, for a vocabulary of V nodes."""
    return _LSTM_MANY if n_nodes > MANY_NODES else _LSTM_LETTERS
