"""Sizes and settings that do well within minutes, for a GPT and for an LSTM."""

from __future__ import annotations

from typing import Any, NamedTuple

from minibrillm.config import TrainConfig
from minibrillm.presets import MANY_NODES
from minibrillm.rivals.gpt import GPT, GPTConfig
from minibrillm.rivals.lstm import LSTM, LSTMConfig
from minibrillm.rivals.peer import Peer


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
