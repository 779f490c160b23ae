"""What training may do for less: round small probabilities, drop numbers, ask a few nodes only."""

from minibrillm.variance.dropout import dropout_mask
from minibrillm.variance.extras import Extras
from minibrillm.variance.negatives import most_frequent_successors, with_negatives
from minibrillm.variance.rounding import Rounding, round_at_random

__all__ = [
    "Extras",
    "Rounding",
    "dropout_mask",
    "most_frequent_successors",
    "round_at_random",
    "with_negatives",
]
