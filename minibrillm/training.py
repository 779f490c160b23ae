"""The training loop: draw a batch, find the gradients, move the weights; keep what did best."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np

from minibrillm import machine
from minibrillm.checks import Diverged, Ids, as_documents, check_goes_on, check_training, remedy
from minibrillm.config import TrainConfig
from minibrillm.model import BriLLM
from minibrillm.optim import AdamW, learning_rate
from minibrillm.scoring import curve_part, window_loss
from minibrillm.storage import History, Record
from minibrillm.text import Batch, Windows
from minibrillm.variance import Extras


class Trainer:
    """Trains a model, and keeps what did best.

    ``model`` is changed in place: it gets the moving average of the weights at the step that did
    best on the held-out text. `averaged` holds the average as it is now, `learner` the weights
    themselves. Both texts are a stream of token ids (N,), or documents, whose ends no window
    crosses; a training text shorter than a sequence, or nothing held out, is a `UserError`.
    """

    count_evaluations = True  # whether they use up the minutes, as they do for a user

    def __init__(
        self, model: BriLLM, train_ids: Ids, heldout_ids: Ids, config: TrainConfig
    ) -> None:
        self.train_ids, self.heldout_ids = as_documents(train_ids), as_documents(heldout_ids)
        self.windows = Windows(self.train_ids, config.sequence_length)
        check_training(self.heldout_ids, config.sequence_length, model.max_positions)
        self.model, self.config = model, config
        self.rng = np.random.default_rng([config.seed, 1])
        self.step, self.seconds, self.history = 0, 0.0, History()
        self.kept_step: int | None = None
        self.kept_loss = math.inf
        self._prepare()

    def _prepare(self) -> None:
        model = self.model
        self.learner = model.with_parameters({k: a.copy() for k, a in model.parameters.items()})
        self.optimiser = AdamW(self.learner, self.config)
        self.averaged = model.with_parameters(self.optimiser.average)
        self.extras = Extras(model, self.config, self.train_ids)

    def learn(self, batch: Batch, rate: float) -> tuple[float, float]:
        """Learn from a batch at a rate; returns the loss before, and the gradient's norm."""
        tokens, weights = batch
        extras = self.extras.draw(tokens, self.step, self.rng)
        loss, gradients = self.learner.loss_and_gradients(tokens, weights=weights, **extras)
        if "bigrams" not in extras and "context_trust" in gradients:
            gradients["context_trust"][...] = 0  # counts that know the answer earn no trust
        if not math.isfinite(loss):
            return loss, math.nan
        return loss, self.optimiser.update(gradients, self.step + 1, rate)

    def heldout_loss(self) -> float:
        """Held-out nats per token of the averaged weights, on the part used for the curve."""
        return window_loss(self.averaged, curve_part(self.heldout_ids))

    def keep(self) -> None:
        """Give the model the averaged weights."""
        for name, array in self.optimiser.average.items():
            self.model.parameters[name][...] = array

    def get_ready(self) -> None:
        """Compile what the loop calls, on a whole batch: its size decides which kernels compete."""
        rng = np.random.default_rng(0)
        tokens, _ = self.windows.draw(self.config.batch_size, rng)
        self.learner.loss_and_gradients(tokens, **self.extras.draw(tokens, 0, rng))
        self.model.nll(tokens)
        p, g, *moments = np.zeros((5, 1), next(iter(self.model.parameters.values())).dtype)
        self.learner.operations.adamw(p, g, tuple(moments), 1.0, 1, 0.0, 0.0, self.config)

    @property
    def progress(self) -> float:
        """Share of the run that is over, by steps or by time, whichever is further."""
        c = self.config
        by_time = 0.0 if c.minutes is None else self.seconds / (60 * c.minutes)
        return by_time if c.steps is None else max(by_time, self.step / c.steps)

    @property
    def kept(self) -> tuple[int, int]:
        """The step whose weights are kept, and the last one."""
        return (self.step if self.kept_step is None else self.kept_step), self.step

    def train_step(self) -> Record:
        """Draw a batch and learn; a loss or gradient that is not finite is a `UserError`."""
        c, rate = self.config, learning_rate(self.config, self.step, self.progress)
        loss, norm = self.learn(self.windows.draw(c.batch_size, self.rng), rate)
        for what, value in (("loss", loss), ("gradient's norm", norm)):
            if not math.isfinite(value):
                what = f"the {what} became {value} at step {self.step + 1}"
                raise Diverged(f"{what}; {remedy(self.model.config)}")
        self.step += 1
        read = self.step * c.batch_size * c.sequence_length
        return Record(self.step, self.seconds, read, rate, loss, norm)

    def train(
        self, *, progress_bar: bool = True, on_step: Callable[[Record], None] | None = None
    ) -> History:
        """Train to the end of the run and return the history; ``on_step`` is told every record.

        Ctrl-C raises `Interrupted` after a whole step, from which the next call goes on.
        """
        check_goes_on(self.progress, self.step)
        self.get_ready()
        every, began = self.config.evaluate_every, time.perf_counter() - self.seconds
        bar = machine.progress_bar(self.config, self.step, self.seconds, progress_bar)
        with machine.interruptible() as interrupt, bar as show:
            while self.progress < 1:
                record, heldout = self.train_step(), math.nan
                self.seconds = time.perf_counter() - began
                if self.progress >= 1 or (every and self.step % every == 0):
                    before = time.perf_counter()
                    heldout = self.heldout_loss()
                    if not self.count_evaluations:  # then the clock stands still meanwhile
                        began += time.perf_counter() - before
                    self.seconds = time.perf_counter() - began
                    if heldout < self.kept_loss:
                        self.kept_loss, self.kept_step = heldout, self.step
                        self.keep()
                record = dataclasses.replace(record, seconds=self.seconds, heldout_loss=heldout)
                self.history.append(record)
                if on_step is not None:
                    on_step(record)
                show(record)
                if interrupt.requested and self.progress < 1:
                    if self.kept_step is None:
                        self.keep()
                    raise machine.Interrupted(f"interrupted after step {self.step}")
        if self.kept_step is None:  # no held-out loss was a number
            self.keep()
        return self.history
