"""AdamW with warm-up, cosine schedule, clipping and a moving average of the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from minibrillm.config import TrainConfig
    from minibrillm.model import BriLLM

Array = np.ndarray
Parameters = dict[str, Array]
Moments = tuple[Array, Array, Array]
Rates = tuple[float, int, float, float, float, float, float, float]

# Squares are added up in blocks, and in each block in lanes side by side, so that textbook and
# kernels find the same norm to the last bit.
SQUARES_BLOCK, SQUARES_LANES = 1 << 16, 16


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up after so many steps, times half a cosine over the ``progress`` 0 … 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def sum_of_squares(array: Array) -> float:
    """Σ x² over all elements, in float64: towards the norm of a gradient."""
    flat, sums = array.reshape(-1), []
    for first in range(0, flat.size, SQUARES_BLOCK):
        block = flat[first : first + SQUARES_BLOCK].astype(np.float64)
        lanes = np.pad(block, (0, -block.size % SQUARES_LANES)).reshape(-1, SQUARES_LANES)
        sums.append(np.square(lanes).sum(axis=0))
    return math.fsum(x for lanes in sums for x in lanes)


def adamw(parameter: Array, gradient: Array, moments: Moments, rates: Rates) -> None:
    """One step of AdamW on one array, in place, and of the moving average of the weights.

    Weight decay is apart from the gradient (Loshchilov & Hutter 2019, algorithm 2). Mean and square
    start at zero; ``scale`` is for clipping, ``step`` counts from 1, ``fade`` is the average's.
    """
    (mean, square, average), (scale, step, rate, decay, beta1, beta2, epsilon, fade) = (
        moments,
        rates,
    )
    g = gradient * parameter.dtype.type(scale)
    mean += (1 - beta1) * (g - mean)
    square += (1 - beta2) * (g * g - square)
    root = np.sqrt(square / (1 - beta2**step)) + epsilon
    parameter *= 1 - rate * decay
    parameter -= rate / (1 - beta1**step) * mean / root
    average += (1 - fade) * (parameter - average)


class AdamW:
    """Updates the weights of a model in place; keeps their moments and their moving average.

    The average follows the weights with decay min(``average_decay``, (1 + t) / (10 + t)) at step
    t, so that it forgets the first weights early on.
    """

    def __init__(self, model: BriLLM, config: TrainConfig) -> None:
        self.parameters, self.config, self.operations = model.parameters, config, model.operations
        self.decaying = model.config.edge_kind.decaying
        self.frozen = model.config.edge_kind.frozen(model.config)
        self.mean = {name: np.zeros_like(array) for name, array in self.parameters.items()}
        self.square = {name: np.zeros_like(array) for name, array in self.parameters.items()}
        self.average = {name: array.copy() for name, array in self.parameters.items()}

    def update(self, gradients: Parameters, step: int, rate: float) -> float:
        """Take step number ``step``, from 1, and return the gradient's norm, unclipped.

        A norm that is not finite leaves everything as it was.
        """
        c = self.config
        kept = {name: self.parameters[name][row].copy() for name, row in self.frozen.items()}
        for name, row in self.frozen.items():
            gradients[name][row] = 0
        # In float64, without BLAS and in one order of names: the same bits with any number of
        # threads, and after a resume, whose arrays come in another order.
        squares = [self.operations.sum_of_squares(gradients[name]) for name in sorted(gradients)]
        norm = math.sqrt(math.fsum(squares))
        if not math.isfinite(norm):
            return norm
        scale = min(1.0, c.clip_norm / (norm + 1e-12)) if c.clip_norm else 1.0
        fade = min(c.average_decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            moments = self.mean[name], self.square[name], self.average[name]
            decay = c.weight_decay if name in self.decaying else 0.0
            rates = scale, step, rate, decay, c.beta1, c.beta2, c.epsilon, fade
            self.operations.adamw(parameter, gradients[name], moments, rates)
        for name, row in self.frozen.items():  # weight decay has moved it
            self.parameters[name][row] = self.average[name][row] = kept[name]
        return norm
