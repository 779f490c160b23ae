"""AdamW with warm-up, cosine schedule, clipping and a moving average of the weights."""

from __future__ import annotations

import math

import numpy as np

from minibrillm.checks import Network
from minibrillm.config import TrainConfig
from minibrillm.functional import Named

Array = np.ndarray
Moments = tuple[Array, Array, Array]  # mean and square of gradients; average of weights


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up after so many steps, times half a cosine over the ``progress`` 0 … 1."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


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
    """One step of AdamW on one array, in place, and of the moving average of the weights.

    Weight decay is apart from the gradient (Loshchilov & Hutter 2019, algorithm 2); ``scale``
    clips the gradient; ``step`` counts from 1. The average forgets the first weights early on.
    """
    mean, square, average = moments
    g = gradient * parameter.dtype.type(scale)
    mean += (1 - c.beta1) * (g - mean)
    square += (1 - c.beta2) * (g * g - square)
    root = np.sqrt(square / (1 - c.beta2**step)) + c.epsilon
    parameter *= 1 - rate * decay
    parameter -= rate / (1 - c.beta1**step) * mean / root
    average += (1 - average_decay(c, step)) * (parameter - average)


def average_decay(c: TrainConfig, step: int) -> float:
    """How much of the average stays, at a step that counts from 1."""
    return min(c.average_decay, (1 + step) / (10 + step))


class AdamW:
    """Updates the weights of a model in place; keeps their moments and their moving average."""

    def __init__(self, model: Network, config: TrainConfig) -> None:
        self.parameters, self.config, self.operations = model.parameters, config, model.operations
        self.decaying = model.config.edge_kind.decaying
        self.frozen = model.config.edge_kind.frozen(model.config)
        self.mean = {name: np.zeros_like(array) for name, array in self.parameters.items()}
        self.square = {name: np.zeros_like(array) for name, array in self.parameters.items()}
        self.average = {name: array.copy() for name, array in self.parameters.items()}

    def update(self, gradients: Named, step: int, rate: float) -> float:
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
        for name, parameter in self.parameters.items():
            moments = self.mean[name], self.square[name], self.average[name]
            decay = c.weight_decay if name in self.decaying else 0.0
            self.operations.adamw(parameter, gradients[name], moments, scale, step, rate, decay, c)
        for name, row in self.frozen.items():  # weight decay has moved it
            self.parameters[name][row] = self.average[name][row] = kept[name]
        return norm
