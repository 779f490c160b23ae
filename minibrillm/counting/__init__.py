"""Counts: Kneser-Ney, the bigram of the Hebbian prior, the rows of a prior."""

from minibrillm.counting.kneser_ney import (
    FALLBACK_DISCOUNTS,
    BigramPrior,
    KneserNey,
    Level,
    PairIndex,
    loss_by_order,
)

__all__ = ["FALLBACK_DISCOUNTS", "BigramPrior", "KneserNey", "Level", "PairIndex", "loss_by_order"]
