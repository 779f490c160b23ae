"""What helps where a signal, or a loss, has run away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minibrillm.config import ModelConfig


def remedy(config: ModelConfig) -> str:
    """What to change in the next training of such a model, as the end of a sentence."""
    if config.signal_bound == 0:
        return (
            "nothing bounds its signals: train with signal_bound=8, or with the preset mini-ngrams"
        )
    return "train with a smaller learning_rate"
