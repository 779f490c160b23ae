"""AdamW with warm-up, cosine schedule, clipping and a moving average of the weights."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np

from minibrillm.config import TrainConfig
from minibrillm.parameters import Parameters, decays

Array = np.ndarray


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Linear warm-up over ``warmup_steps``, times half a cosine over the whole run.

    Parameters
    ----------
    step : int
        Steps done.
    progress : float
        Share of the run that is over, 0 … 1.
    """
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class AdamW:
    """Moments and averaged weights of every trained parameter.

    The average follows the weights with decay min(``average_decay``, (1 + t) / (10 + t)) at step
    t, so that it forgets the initial weights early on.

    Parameters
    ----------
    parameters : dict of arrays
        Updated in place.
    config : TrainConfig
    operations : module
        `minibrillm.kernels` or `minibrillm.reference`.
    train_shared_edge : bool
        False: slot 0 of the edges stays as it is (the paper's "fixed, non-updated" edge).
    """

    def __init__(
        self,
        parameters: Parameters,
        config: TrainConfig,
        operations: ModuleType,
        train_shared_edge: bool = True,
    ) -> None:
        self.parameters = parameters
        self.config = config
        self.operations = operations
        self.train_shared_edge = train_shared_edge
        self.mean = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.square = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.average = {name: array.copy() for name, array in parameters.items()}

    def update(self, gradients: Parameters, step: int, rate: float) -> float:
        """Take optimiser step number ``step`` (from 1); returns the gradient's norm, unclipped.

        A norm that is not finite leaves everything as it was.
        """
        config = self.config
        frozen: dict[str, Array] = {}
        if not self.train_shared_edge and "edge_weight" in self.parameters:
            for name in ("edge_weight", "edge_bias"):
                gradients[name][0] = 0
                frozen[name] = self.parameters[name][0].copy()
        # In float64, without BLAS and in one order of names: the same bits with any number of
        # threads, and after a resume, whose arrays come in another order.
        squares = [self.operations.sum_of_squares(gradients[name]) for name in sorted(gradients)]
        norm = math.sqrt(math.fsum(squares))
        if not math.isfinite(norm):
            return norm
        scale = min(1.0, config.clip_norm / (norm + 1e-12)) if config.clip_norm else 1.0
        for name, parameter in self.parameters.items():
            self.operations.adamw(
                parameter,
                gradients[name],
                self.mean[name],
                self.square[name],
                self.average[name],
                scale,
                step,
                rate,
                config.weight_decay if decays(name) else 0.0,
                config.beta1,
                config.beta2,
                config.epsilon,
                min(config.average_decay, (1 + step) / (10 + step)),
            )
        for name, value in frozen.items():
            self.parameters[name][0] = value
            self.average[name][0] = value
        return norm
