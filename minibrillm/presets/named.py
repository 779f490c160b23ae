"""Settings by name: what differs from the defaults, which are those of ``mini``."""

from __future__ import annotations

import warnings
from typing import Any

from minibrillm.checks import UserError

MODELS: dict[str, dict[str, Any]] = {
    # The paper's equation.
    "paper": {
        "memory": "chain",
        "start": "ones",
        "edges": "shared",
        "positions": "sinusoidal",
        "first_position": 0,
        "prior": "none",
        "min_count": 1,
        "train_shared_edge": False,
        "initial_range": 0.5,
        "signal_bound": 0.0,
    },
    # The authors' code.
    "released": {
        "memory": "position",
        "start": "node",
        "edges": "shared",
        "positions": "released",
        "first_position": 1,
        "prior": "none",
        "min_count": 1,
        "train_shared_edge": True,
        "initial_range": 0.5,
        "signal_bound": 0.0,
    },
    "mini": {},
    # What the commands take: mini, and a prior that also counts 7-grams.
    "mini-ngrams": {"prior": "ngrams"},
}
TRAININGS: dict[str, dict[str, Any]] = {
    # The published settings: 8 processes of 32 sequences, 400 negatives, no clipping.
    "released": {
        "sequence_length": 32,
        "batch_size": 256,
        "learning_rate": 0.05,
        "warmup_steps": 0,
        "clip_norm": 0.0,
        "negatives": 400,
        "beta2": 0.999,
        "weight_decay": 0.01,
        "average_decay": 0.0,
    },
    "paper": {
        "sequence_length": 16,
        "batch_size": 256,
        "learning_rate": 0.01,
        "beta2": 0.999,
        "weight_decay": 0.01,
        "average_decay": 0.0,
    },
}


_RENAMED = {"mini7": "mini-ngrams"}


def model_settings(name: str) -> dict[str, Any]:
    """Settings of `ModelConfig`; an unknown name is a `UserError`."""
    return MODELS[_known(name)]


def training_settings(name: str) -> dict[str, Any]:
    """Settings of `TrainConfig` that suit that model."""
    return TRAININGS.get(_known(name), {})


def _known(name: object) -> str:
    if isinstance(name, str) and name in _RENAMED:
        warnings.warn(f"the preset {name} is now called {_RENAMED[name]}", stacklevel=4)
        return _RENAMED[name]
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(MODELS)}")
    return name
