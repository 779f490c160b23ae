"""Settings that suit a text: what its vocabulary, its length and its documents decide."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from minibrillm.checks import Settings

MANY_NODES = 500  # above, what is right for letters takes too long
ROUND_BELOW = 1 / 64  # then gradients of rare targets are drawn: half the time, a few percent noise

_FOR_MANY: dict[str, Any] = {
    "d_node": 16,
    "batch_size": 32,
    "round_below": ROUND_BELOW,
    "leave_one_out": 1.0,
}

_USUAL_EDGES = 64  # that a sequence crosses, unless documents are shorter
_LONG_TEXT = 300_000  # tokens that a model of letters cannot learn by heart in a few minutes
_SHORT_TEXT = 60_000
_TINY_TEXT = 3_000
_READINGS = 40  # of a text that is not long; then the learning rate has come down to nothing
_FEWEST_STEPS = 150
_LONG_TRAINING = 5.0  # minutes
_TIME_TO_EVALUATE = 0.03  # of that of training; a step back costs twice a step forward


def for_vocabulary(
    n_nodes: int,
    config: Settings,
    training: Settings,
    d_node: int | None = None,
    batch_size: int | None = None,
) -> tuple[Settings, Settings]:
    """Settings that suit V nodes: many make ``mini`` narrower, its batches smaller, small
    probabilities rounded (`TrainConfig.round_below`), and an n-gram prior leave one out.

    Every token costs V d², and every step the gradients of V matrices. What is given as ``d_node``
    or ``batch_size`` stays as it is, and so does a rounding that is set.
    """
    if n_nodes > MANY_NODES and config.edges == "three_part":
        config = config.replace(d_node=d_node or _FOR_MANY["d_node"])
        training = training.replace(
            batch_size=batch_size or _FOR_MANY["batch_size"],
            round_below=training.round_below or _FOR_MANY["round_below"],
            leave_one_out=_FOR_MANY["leave_one_out"],
        )
    return config, training


def for_text(
    n_nodes: int,
    lengths: Sequence[int],
    n_heldout: int,
    config: Settings,
    training: Settings,
    given: Collection[str] = (),
) -> tuple[Settings, Settings]:
    """Settings that suit a text, found by trial on texts of many kinds (`minibrillm.bench`).

    The shorter the text, the narrower the node, the stronger the decay and the smaller the batch;
    a short text is read so often and no more. Sequences are no longer than the documents. The
    presets `paper` and `released` keep their published settings but for the sequences.

    Parameters
    ----------
    n_nodes : int
        V.
    lengths : sequence of int
        Tokens of each training document.
    n_heldout : int
        Tokens of the held-out text that the curve is made of.
    config, training : ModelConfig, TrainConfig
    given : names of settings that stay as they are

    Returns
    -------
    ModelConfig, TrainConfig
    """
    changes: dict[str, Any] = {"sequence_length": _sequence_length(lengths, training)}
    n_tokens = sum(lengths)
    if config.edges == "three_part":
        changes |= _by_size(n_nodes, n_tokens, training.minutes)
    changes = {name: value for name, value in changes.items() if name not in given}
    of_model = {name: value for name, value in changes.items() if hasattr(config, name)}
    of_training = {name: value for name, value in changes.items() if name not in of_model}
    config, training = config.replace(**of_model), training.replace(**of_training)
    if config.edges == "three_part":
        if not {"batch_size", "sequence_length"} & set(given):  # shorter, then more of them
            longer = _USUAL_EDGES // training.sequence_length
            training = training.replace(batch_size=training.batch_size * max(longer, 1))
        positions = training.batch_size * training.sequence_length
        if training.steps is None and n_tokens < _LONG_TEXT:
            steps = max(_FEWEST_STEPS, math.ceil(_READINGS * n_tokens / positions))
            training = training.replace(steps=steps)
        if training.steps is not None and "warmup_steps" not in given:
            warmup = min(training.warmup_steps, training.steps // 5)
            training = training.replace(warmup_steps=warmup)
    if "evaluate_every" not in given:
        positions = training.batch_size * training.sequence_length
        every = math.ceil(n_heldout / (3 * _TIME_TO_EVALUATE * positions))
        training = training.replace(evaluate_every=min(max(every, 5), training.evaluate_every))
    return config, training


def _sequence_length(lengths: Sequence[int], training: Settings) -> int:
    """No longer than all but the longest twentieth of the documents."""
    edges = np.array([n - 1 for n in lengths if n > 1])
    if not edges.size:
        return training.sequence_length  # `Trainer` says what is missing
    usual = int(np.quantile(edges, 0.95, method="higher"))
    return min(training.sequence_length, max(usual, 1))


def _by_size(n_nodes: int, n_tokens: int, minutes: float | None) -> dict[str, Any]:
    """Settings of ``mini`` and ``mini-ngrams``."""
    if n_nodes > MANY_NODES:
        return _FOR_MANY | {"weight_decay": 1.2 if n_tokens >= _LONG_TEXT else 6.0}
    if n_tokens >= _LONG_TEXT:
        if minutes is not None and minutes >= _LONG_TRAINING:
            return {"d_node": 64, "weight_decay": 1.5, "dropout": 0.2}
        return {"d_node": 48, "weight_decay": 1.0}
    settings: dict[str, Any] = {"d_node": 32, "min_count": 20, "initial_range": 0.1, "dropout": 0.1}
    if n_tokens >= _SHORT_TEXT:
        return settings | {"batch_size": 64, "weight_decay": 1.0}
    settings |= {"batch_size": 32, "weight_decay": 4.0, "leave_one_out": 0.25}
    if n_tokens < _TINY_TEXT:
        settings |= {"d_node": 16, "weight_decay": 6.0, "batch_size": 16}
    return settings
