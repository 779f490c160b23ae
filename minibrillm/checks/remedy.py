"""What helps where a signal, or a loss, has run away."""

from __future__ import annotations


def remedy(config: object) -> str:
    """What to change in the next training of a model of this config, as the end of a sentence."""
    if getattr(config, "signal_bound", None) == 0:
        return (
            "nothing bounds its signals: train with signal_bound=8, or with the preset mini-ngrams"
        )
    return "train with a smaller learning_rate"
