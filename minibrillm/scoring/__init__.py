"""Held-out losses: what training chooses by and judging reports."""

from minibrillm.scoring.losses import (
    WINDOW,
    Scored,
    curve_part,
    n_edges,
    stream_loss,
    width_of,
    window_loss,
)

__all__ = ["WINDOW", "Scored", "curve_part", "n_edges", "stream_loss", "width_of", "window_loss"]
