"""The training loop: draw a batch, find the gradients, move the weights; keep what did best."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minibrillm import machine
from minibrillm.checks import UserError, as_documents, remedy
from minibrillm.config import TrainConfig
from minibrillm.counting import KneserNey
from minibrillm.model import BriLLM
from minibrillm.optim import AdamW, learning_rate
from minibrillm.scoring import curve_part, window_loss
from minibrillm.storage import History, Record
from minibrillm.text import Batch, Windows
from minibrillm.variance import Rounding, dropout_mask, most_frequent_successors, with_negatives

Array = np.ndarray


class Diverged(UserError):
    """A loss or a gradient that is not finite any more."""


class Loop:
    """Steps until a run is over. Held-out loss is measured on the way, and what did best is kept.

    A subclass says what a step learns, how good it is, and what to keep: `Trainer`, and the
    trainers of other models that ours is compared with.
    """

    def __init__(self, config: TrainConfig, windows: Windows) -> None:
        self.config, self.windows = config, windows
        self.rng = np.random.default_rng([config.seed, 1])
        self.step, self.seconds, self.history = 0, 0.0, History()
        self.kept_step: int | None = None
        self.kept_loss = math.inf
        self.count_evaluations = True  # whether they use up the minutes, as they do for a user

    def learn(self, batch: Batch, rate: float) -> tuple[float, float]:
        """Learn from a batch at a rate; returns the loss before, and the gradient's norm."""
        raise NotImplementedError

    def heldout_loss(self) -> float:
        """Held-out nats per token of the weights as they are now."""
        raise NotImplementedError

    def keep(self) -> None:
        """Keep the weights as they are now: no step before was better."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Whatever must not count as training time."""

    @property
    def advice(self) -> str:
        """What helps if the loss runs away."""
        return "take a smaller learning_rate"

    @property
    def progress(self) -> float:
        """Share of the run that is over, by steps or by time, whichever is further."""
        steps, minutes = self.config.steps, self.config.minutes
        by_steps = 0.0 if steps is None else self.step / steps
        return max(by_steps, 0.0 if minutes is None else self.seconds / (60 * minutes))

    @property
    def kept(self) -> tuple[int, int]:
        """The step whose weights are kept, and the last one."""
        return self.step if self.kept_step is None else self.kept_step, self.step

    def train_step(self) -> Record:
        """Draw a batch and learn; a loss or gradient that is not finite is a `UserError`."""
        rate = learning_rate(self.config, self.step, self.progress)
        batch = self.windows.draw(self.config.batch_size, self.rng)
        loss, norm = self.learn(batch, rate)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = (
                f"gradient's norm became {norm}" if math.isfinite(loss) else f"loss became {loss}"
            )
            raise Diverged(f"the {what} at step {self.step + 1}; {self.advice}")
        self.step += 1
        read = self.step * self.config.batch_size * self.config.sequence_length
        return Record(self.step, self.seconds, read, rate, loss, norm)

    def train(
        self, *, progress_bar: bool = True, on_step: Callable[[Record], None] | None = None
    ) -> History:
        """Train to the end of the run and return the history; ``on_step`` is told every record.

        Raises
        ------
        Interrupted
            After Ctrl-C, once the current step is complete; `train` goes on from there.
        UserError
            The loss is not finite, or the run was over already.
        """
        if self.progress >= 1:
            raise UserError(
                f"this training is over after {self.step} steps; to go on, make a new Trainer with "
                "the same model, which keeps what it has learned"
            )
        self.warm_up()
        every, began = self.config.evaluate_every, time.perf_counter() - self.seconds
        bar = machine.progress_bar(self.config, self.step, self.seconds, progress_bar)
        with machine.interruptible() as interrupt, bar as show:
            while self.progress < 1:
                record = self.train_step()
                self.seconds, heldout = time.perf_counter() - began, math.nan
                if self.progress >= 1 or (every and self.step % every == 0):
                    before = time.perf_counter()
                    heldout = self.heldout_loss()
                    began += 0 if self.count_evaluations else time.perf_counter() - before
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


class Trainer(Loop):
    """Trains a model.

    ``model`` is changed in place: it gets the moving average of the weights at the step that did
    best on the held-out curve, so that longer training never leaves a worse model. `averaged` holds
    the average as it is now, `learner` the weights themselves.

    Parameters
    ----------
    model : BriLLM
        Its weights are the starting point.
    train_ids, heldout_ids : integer arrays (N,), or sequences of them
        Streams of tokens, or documents, whose ends no window crosses (`minibrillm.text.Windows`).
        The step whose weights are kept is chosen on the held-out text, nothing else.
    config : TrainConfig

    Raises
    ------
    UserError
        A training text shorter than one sequence, or fewer than 2 tokens held out.
    """

    def __init__(
        self,
        model: BriLLM,
        train_ids: Array | Sequence[Array],
        heldout_ids: Array | Sequence[Array],
        config: TrainConfig,
    ) -> None:
        self.model = model
        self.train_ids, self.heldout_ids = as_documents(train_ids), as_documents(heldout_ids)
        super().__init__(config, Windows(self.train_ids, config.sequence_length))
        self.learner = model.with_parameters({k: a.copy() for k, a in model.parameters.items()})
        self.optimiser = AdamW(self.learner, config)
        self.averaged = model.with_parameters(self.optimiser.average)
        self._successors = None
        if config.negatives:
            self._successors = most_frequent_successors(model.graph, config.negatives + 1)
        self._bigrams = None  # what an n-gram prior is made blind with (`Withheld`)
        if config.leave_one_out and model.config.prior == "ngrams":
            self._bigrams = KneserNey.fit(self.train_ids, model.graph.n_nodes, 2)
        limit, longest = model.max_positions, max(map(len, self.heldout_ids), default=0)
        if limit is not None and config.sequence_length > limit:
            raise UserError(
                f"sequence_length is {config.sequence_length}, but the model knows only "
                f"{limit} positions (max_positions)"
            )
        if longest < 2:
            raise UserError(f"the held-out text has {longest} tokens; it takes at least 2")

    def heldout_loss(self) -> float:
        """Held-out nats per token of the averaged weights, on the part used for the curve."""
        return window_loss(self.averaged, curve_part(self.heldout_ids))

    @property
    def advice(self) -> str:
        return remedy(self.model.config)

    def keep(self) -> None:
        """Give the model the averaged weights."""
        for name, array in self.optimiser.average.items():
            self.model.parameters[name][...] = array

    def learn(self, batch: Batch, rate: float) -> tuple[float, float]:
        """Find the gradients of a batch, and update."""
        tokens, weights = batch
        chosen = None
        if self._successors is not None:
            chosen = with_negatives(tokens, self._successors)
        extras = self._extras(tokens, self.rng)
        loss, gradients = self.learner.loss_and_gradients(tokens, chosen, weights, **extras)
        if "bigrams" not in extras and "context_trust" in gradients:
            gradients["context_trust"][...] = 0  # counts that know the answer earn no trust
        if not math.isfinite(loss):
            return loss, math.nan
        return loss, self.optimiser.update(gradients, self.step + 1, rate)

    def _extras(self, tokens: Array, rng: np.random.Generator) -> dict[str, Any]:
        """What this step's gradients take besides the batch; dropout and rounding are drawn anew."""
        c, model, extras = self.config, self.learner, {}
        # Steps that leave one out are evenly spread.
        due = int((self.step + 1) * c.leave_one_out) > int(self.step * c.leave_one_out)
        if self._bigrams is not None and due:
            extras["bigrams"] = self._bigrams
        if c.dropout:
            dtype = next(iter(model.parameters.values())).dtype
            shape = len(tokens), model.config.d_node
            extras["mask"] = dropout_mask(c.dropout, *shape, dtype, rng)
        if c.round_below:
            extras["rounding"] = Rounding(c.round_below, rng.random(tokens[:, 1:].shape))
        return extras

    def warm_up(self) -> None:
        """Compile what the loop calls, on a whole batch: which kernels compete depends on its size."""
        rng = np.random.default_rng(0)
        tokens, _ = self.windows.draw(self.config.batch_size, rng)
        self.learner.loss_and_gradients(tokens, **self._extras(tokens, rng))
        self.model.nll(tokens)
        arrays = np.zeros((5, 1), next(iter(self.model.parameters.values())).dtype)
        self.learner.operations.adamw(*arrays, 1.0, 1, 0.0, 0.0, 0.5, 0.5, 1e-8, 0.5)
