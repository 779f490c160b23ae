"""Sides timed in turns; medians and quartiles of what came out.

What is compared is timed in turns (A B A B …), so that whatever else the machine does hits all
sides alike. Quotients are taken round by round, and then their median.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import threadpoolctl

Array = np.ndarray
Side = Callable[[], object]

REST = 0.06  # seconds until the threads of any library sleep


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``n`` measurements."""

    median: float
    low: float
    high: float
    n: int

    def text(self, factor: float = 1.0, digits: int = 1) -> str:
        """``median (low–high)``, each times ``factor``."""
        middle, low, high = (
            f"{factor * x:,.{digits}f}" for x in (self.median, self.low, self.high)
        )
        return f"{middle} ({low}–{high})"


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles of some numbers."""
    found = np.fromiter(values, np.float64)
    low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
    return Spread(float(middle), float(low), float(high), found.size)


def fit_exponent(x: Iterable[float], y: Iterable[float]) -> float:
    """The p of y ∝ x^p, by least squares on the logarithms."""
    return float(np.polyfit(np.log(np.fromiter(x, float)), np.log(np.fromiter(y, float)), 1)[0])


def alternate(
    sides: Mapping[str, Side],
    repeats: int,
    rest: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    in_a_row: int = 0,
) -> dict[str, Array]:
    """Seconds that each side takes, in turns: A B C A B C …, after one round that is not timed.

    Parameters
    ----------
    rest : float
        Seconds of sleep before each side. Where the sides have threads of their own (OpenBLAS,
        PyTorch, Numba), those of the last one keep a core busy for some 30 ms after their work.
    in_a_row : int
        Time so many runs of a side at each turn, after one that is not timed, and take their mean:
        what comes after another side finds the caches full of that side's data.

    Returns
    -------
    dict: by name of the side, its times in order, float64 (repeats,)
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            time.sleep(rest)
            if in_a_row:
                side()
            start = clock()
            for _ in range(max(in_a_row, 1)):
                side()
            if turn:
                times[name].append((clock() - start) / max(in_a_row, 1))
    return {name: np.array(found) for name, found in times.items()}


def blas_threads(count: int) -> AbstractContextManager[Any]:
    """As many threads for NumPy's matrix products, while it lasts."""
    return threadpoolctl.ThreadpoolController().limit(limits=count, user_api="blas")
