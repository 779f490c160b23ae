"""Training a peer: the same batches, schedule and clock as ours."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minibrillm.config import TrainConfig
from minibrillm.rivals.peer import Peer
from minibrillm.rivals.pytorch import nn, torch
from minibrillm.scoring import curve_part
from minibrillm.storage import History, Record
from minibrillm.text import Batch
from minibrillm.training import Trainer

Array = np.ndarray


class PeerTrainer(Trainer):
    """Trains a peer as `minibrillm.training.Trainer` trains ours: same batches, same loop.

    What is measured on the way does not count as time. AdamW decays matrices only. The moving
    average of the weights is evaluated, at the end the weights themselves too; `model`, which is
    the peer itself, gets what did best on the held-out text.

    Parameters
    ----------
    peer : Peer
        Its weights are the starting point.
    train_ids, heldout_ids : integer arrays (N,), or sequences of them
        Streams, or documents, whose ends no window crosses (`minibrillm.text.Windows`).
    config : TrainConfig
        What varies the gradients (``negatives``, ``dropout`` …) and ``checkpoint_every`` do not
        matter.
    """

    count_evaluations = False
    model: Any  # a `Peer`, which has of a `BriLLM` what the loop asks for
    learner: Any
    averaged: Any
    optimiser: Any  # that of PyTorch

    def __init__(
        self,
        peer: Peer,
        train_ids: Array | Sequence[Array],
        heldout_ids: Array | Sequence[Array],
        config: TrainConfig,
    ) -> None:
        trained: Any = peer
        super().__init__(trained, train_ids, heldout_ids, config)

    def _prepare(self) -> None:
        config = self.config
        self.learner, self.averaged = copy.deepcopy(self.model), copy.deepcopy(self.model)
        self.best: Peer = self.averaged  # of both, when they were last evaluated
        self.weights = list(self.learner.parameters())
        self.average = [p.data for p in self.averaged.parameters()]
        matrices = [p for p in self.weights if p.ndim > 1]
        others = [p for p in self.weights if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )

    def learn(self, batch: Batch, rate: float) -> tuple[float, float]:
        """Learn from a batch at a rate; returns the loss before, and the gradient's norm."""
        config, step = self.config, self.step + 1
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss = self.learner.loss(*batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, config.clip_norm or math.inf).item()
        if math.isfinite(norm):
            self.optimiser.step()
            decay = min(config.average_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [p.data for p in self.weights], 1 - decay)
        return loss.item(), norm

    def heldout_loss(self) -> float:
        """Held-out nats per token of the averaged weights; at the end of the better of both."""
        part = curve_part(self.heldout_ids)
        losses = {self.averaged: self.averaged.score(part)}
        if self.progress >= 1:
            losses[self.learner] = self.learner.score(part)
        self.best = min(losses, key=losses.__getitem__)
        return losses[self.best]

    def keep(self) -> None:
        """Give the model the weights that were last found to be the better ones."""
        self.model.load_state_dict(self.best.state_dict())

    def get_ready(self) -> None:
        """Let PyTorch prepare what the loop calls, before the clock starts."""
        tokens = np.zeros((self.config.batch_size, self.config.sequence_length + 1), np.int64)
        with _dropout_from(0):  # or the masks of the training would be others
            self.learner.loss(tokens).backward()
        self.model.nll(tokens)

    def train(
        self, *, progress_bar: bool = True, on_step: Callable[[Record], None] | None = None
    ) -> History:
        """As `Trainer.train`."""
        with _dropout_from(self.config.seed):
            return super().train(progress_bar=progress_bar, on_step=on_step)


@contextmanager
def _dropout_from(seed: int) -> Iterator[None]:
    """Dropout knows PyTorch's global generator only: seed it, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
