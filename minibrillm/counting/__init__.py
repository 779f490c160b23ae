"""Counts: Kneser-Ney, the bigram of the Hebbian prior, the rows of a prior of longer contexts."""

from minibrillm.counting.bigram import BigramPrior
from minibrillm.counting.by_order import loss_by_order
from minibrillm.counting.grams import PairIndex
from minibrillm.counting.kneser_ney import FALLBACK_DISCOUNTS, KneserNey, Level
from minibrillm.counting.rows import (
    PriorRows,
    Withheld,
    log_prior_after,
    prior_rows,
    recent_tokens,
    rows_after,
)

__all__ = [
    "FALLBACK_DISCOUNTS",
    "BigramPrior",
    "KneserNey",
    "Level",
    "PairIndex",
    "PriorRows",
    "Withheld",
    "log_prior_after",
    "loss_by_order",
    "prior_rows",
    "recent_tokens",
    "rows_after",
]
