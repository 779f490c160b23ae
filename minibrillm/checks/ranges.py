"""Which numbers a setting may be (`minibrillm.config`, `minibrillm.generation`)."""

from __future__ import annotations

from collections.abc import Collection

from minibrillm.checks.records import Range

_COUNT, _FROM_ONE = Range(0, whole=True), Range(1, whole=True)
_SHARE, _AT_LEAST_0, _ABOVE_0 = Range(0, 0.999999), Range(0), Range(0, above=True)

MODEL = {
    "d_node": Range(1, 4096, whole=True),
    "first_position": _COUNT,
    "min_count": _FROM_ONE,
    "max_positions": _FROM_ONE,
    "prior_order": Range(2, 16, whole=True),
    "prior_weight": Range(0, 1),
    "initial_range": _AT_LEAST_0,
    "signal_bound": _AT_LEAST_0,
}
WORDS: dict[str, Collection[str]] = {
    "start": ("ones", "node"),
    "positions": ("none", "sinusoidal", "released"),
    "prior": ("none", "hebbian", "ngrams"),
}
TRAINING = {
    "steps": Range(1, whole=True, optional=True),
    "minutes": Range(0, above=True, endless=True, optional=True),  # endless: until interrupted
    **dict.fromkeys(("batch_size", "sequence_length"), _FROM_ONE),
    **dict.fromkeys(("warmup_steps", "negatives"), _COUNT),
    **dict.fromkeys(("evaluate_every", "checkpoint_every", "seed"), _COUNT),
    **dict.fromkeys(("weight_decay", "clip_norm"), _AT_LEAST_0),
    **dict.fromkeys(("learning_rate", "epsilon"), _ABOVE_0),
    **dict.fromkeys(("beta1", "beta2", "average_decay", "dropout", "round_below"), _SHARE),
    "leave_one_out": Range(0, 1),
}
SAMPLING = {
    "temperature": _AT_LEAST_0,
    "top_k": _COUNT,
    "top_p": Range(0, 1, above=True),
}
