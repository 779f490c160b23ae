"""AdamW, and the norm of a gradient to the last bit of the textbook's."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from minibrillm.config import TrainConfig
from minibrillm.kernels.jit import inlined, kernel, one_at_a_time
from minibrillm.machine import SQUARES_BLOCK, SQUARES_LANES
from minibrillm.optim import Moments, average_decay

Array = np.ndarray

_AT_ONCE = 1 << 14  # elements of an array that one thread updates in one go


@inlined(exact=True)
def _add_squares(block: Array, lanes: Array) -> None:
    whole = block.size // SQUARES_LANES
    rows = block[: whole * SQUARES_LANES].reshape(whole, SQUARES_LANES)
    for r in range(whole):
        for j in range(SQUARES_LANES):
            lanes[j] += np.float64(rows[r, j]) * np.float64(rows[r, j])
    rest = block[whole * SQUARES_LANES :]
    for j in range(rest.size):
        lanes[j] += np.float64(rest[j]) * np.float64(rest[j])


@kernel(parallel=True)
def _squares(array: Array, lanes: Array) -> None:
    for b in prange(len(lanes)):
        _add_squares(array[b * SQUARES_BLOCK : (b + 1) * SQUARES_BLOCK], lanes[b])


@one_at_a_time
def sum_of_squares(array: Array) -> float:
    """As `minibrillm.machine.sum_of_squares`."""
    flat = array.reshape(-1)
    lanes = np.zeros((-(-flat.size // SQUARES_BLOCK), SQUARES_LANES))
    _squares(flat, lanes)
    return math.fsum(lanes.ravel())


@inlined()
def _update(
    parameter: Array, gradient: Array, mean: Array, square: Array, average: Array, c: Array
) -> None:
    scale, keep, rate, beta1, beta2, correction, epsilon, fade = c
    for j in range(parameter.size):
        g = gradient[j] * scale
        m = mean[j] + beta1 * (g - mean[j])
        s = square[j] + beta2 * (g * g - square[j])
        p = parameter[j] * keep - rate * m / (np.sqrt(s * correction) + epsilon)
        mean[j], square[j], parameter[j] = m, s, p
        average[j] += fade * (p - average[j])


@kernel(parallel=True)
def _update_all(
    parameter: Array, gradient: Array, mean: Array, square: Array, average: Array, c: Array
) -> None:
    for b in prange((parameter.size + _AT_ONCE - 1) // _AT_ONCE):
        here = slice(b * _AT_ONCE, (b + 1) * _AT_ONCE)
        _update(parameter[here], gradient[here], mean[here], square[here], average[here], c)


@one_at_a_time
def adamw(
    parameter: Array,
    gradient: Array,
    moments: Moments,
    scale: float,
    step: int,
    rate: float,
    decay: float,
    c: TrainConfig,
) -> None:
    """As `minibrillm.optim.adamw`."""
    constants = (
        *(scale, 1 - rate * decay, rate / (1 - c.beta1**step), 1 - c.beta1, 1 - c.beta2),
        *(1 / (1 - c.beta2**step), c.epsilon, 1 - average_decay(c, step)),
    )
    arrays = (array.reshape(-1) for array in (parameter, gradient, *moments))
    _update_all(*arrays, np.array(constants, parameter.dtype))
