"""Training a peer: the same batches, schedule and clock as ours."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from minibrillm.checks import UserError, as_documents
from minibrillm.config import TrainConfig
from minibrillm.optim import learning_rate
from minibrillm.rivals.peer import Peer
from minibrillm.rivals.pytorch import nn, torch
from minibrillm.text import Windows
from minibrillm.training import Record, curve_part

Array = np.ndarray


class PeerTrainer:
    """Trains a peer as `minibrillm.training.Trainer` trains ours: same batches, same clock.

    What is measured on the way does not count as time. AdamW decays matrices only. The moving
    average of the weights is evaluated, at the end the weights themselves too; `model` holds what
    did best on the held-out text.

    Parameters
    ----------
    peer : Peer
        Its weights are the starting point.
    train_ids, heldout_ids : integer arrays (N,), or sequences of them
        Streams, or documents, whose ends no window crosses (`minibrillm.text.Windows`).
    config : TrainConfig
        ``negatives`` and ``checkpoint_every`` do not matter.
    """

    def __init__(
        self,
        peer: Peer,
        train_ids: Array | Sequence[Array],
        heldout_ids: Array | Sequence[Array],
        config: TrainConfig,
    ) -> None:
        limit = peer.max_positions
        if limit is not None and config.sequence_length > limit:
            raise UserError(
                f"sequence_length is {config.sequence_length}, but the model sees {limit} tokens"
            )
        self.config, self.learner = config, peer
        self.averaged, self.model = copy.deepcopy(peer), copy.deepcopy(peer)
        self.kept_loss = math.inf
        self.windows = Windows(train_ids, config.sequence_length)
        self.heldout_ids = curve_part(as_documents(heldout_ids))
        self.rng = np.random.default_rng([config.seed, 1])
        self.weights = list(peer.parameters())
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
        self.step = 0
        self.seconds = 0.0
        self.history: list[Record] = []

    @property
    def progress(self) -> float:
        """Share of the run that is over, by steps or by time, whichever is further."""
        config = self.config
        by_steps = 0.0 if config.steps is None else self.step / config.steps
        by_time = 0.0 if config.minutes is None else self.seconds / (60 * config.minutes)
        return max(by_steps, by_time)

    def train_step(self) -> Record:
        """Draw a batch, find the gradients, update; a loss that is not finite is a `UserError`."""
        config = self.config
        rate = learning_rate(config, self.step, self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss = self.learner.loss(*self.windows.draw(config.batch_size, self.rng))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, config.clip_norm or math.inf).item()
        if not math.isfinite(norm):
            raise UserError(f"the gradient's norm became {norm} at step {self.step + 1}")
        self.optimiser.step()
        self.step += 1
        decay = min(config.average_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.data for p in self.weights], 1 - decay)
        positions = config.batch_size * config.sequence_length
        return Record(self.step, self.seconds, self.step * positions, rate, loss.item(), norm)

    def train(self, on_step: Callable[[Record], None] | None = None) -> list[Record]:
        """Train to the end of the run and return the history."""
        config = self.config
        self._warm_up()
        with _dropout_from(config.seed):
            while self.progress < 1:
                began = time.perf_counter()
                record = self.train_step()
                self.seconds += time.perf_counter() - began
                every = config.evaluate_every
                heldout = math.nan
                if self.progress >= 1:
                    heldout = min(self._score(self.averaged), self._score(self.learner))
                elif every and self.step % every == 0:
                    heldout = self._score(self.averaged)
                record = Record(
                    **{**vars(record), "seconds": self.seconds, "heldout_loss": heldout}
                )
                self.history.append(record)
                if on_step is not None:
                    on_step(record)
        return self.history

    def _warm_up(self) -> None:
        """Let PyTorch prepare what the loop calls, before the clock starts."""
        tokens = np.zeros((self.config.batch_size, self.config.sequence_length + 1), np.int64)
        self.learner.loss(tokens).backward()
        self.model.nll(tokens)

    def _score(self, candidate: Peer) -> float:
        """Held-out loss; what did better than all before is kept."""
        loss = candidate.score(self.heldout_ids)
        if loss < self.kept_loss:
            self.kept_loss = loss
            self.model.load_state_dict(candidate.state_dict())
        return loss


@contextmanager
def _dropout_from(seed: int) -> Iterator[None]:
    """Dropout knows PyTorch's global generator only: seed it, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
