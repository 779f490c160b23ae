"""What helps a model whose signals, or whose loss, have run away."""

from __future__ import annotations

from typing import Any


def remedy(config: Any) -> str:
    """What to change of a `ModelConfig`, or of how it is trained."""
    if config.signal_bound == 0:
        return "nothing bounds its signals: take signal_bound=8, or the preset mini-ngrams"
    return "take a smaller learning_rate"
