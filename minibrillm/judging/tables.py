"""Figures in columns: how a number is written, and how rows become lines of text."""

from __future__ import annotations

from collections.abc import Sequence


def number(x: float, decimals: int = 4) -> str:
    """A figure for a table: so many decimals, or, where it would not fit, four digits in all."""
    return f"{x:.{decimals}f}" if abs(x) < 1e6 else f"{x:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], n_left: int = 1) -> list[str]:
    """A head and rows below it as lines, columns two spaces apart, nothing after the last word.

    Parameters
    ----------
    head : sequence of str
        What stands above each column.
    rows : sequence of sequences of str, each as long as the head
    n_left : int
        The first so many columns begin at the left (names), all others end at the right (figures).
    """
    wide = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        names = map(str.ljust, row[:n_left], wide[:n_left])
        figures = map(str.rjust, row[n_left:], wide[n_left:])
        lines.append("  ".join([*names, *figures]).rstrip())
    return lines
