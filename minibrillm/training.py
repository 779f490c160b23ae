"""The training loop: batches, AdamW, history, checkpoints, interruption."""

from __future__ import annotations

import csv
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm.auto import tqdm

from minibrillm.checks import UserError, as_documents
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.counting import KneserNey
from minibrillm.functional import Rounding
from minibrillm.judging.evaluation import remedy
from minibrillm.model import BriLLM
from minibrillm.optim import AdamW, learning_rate
from minibrillm.parameters import Parameters, check_parameters
from minibrillm.runs import (
    TrainingState,
    latest_checkpoint,
    load_model,
    load_training,
    read_arrays,
    save_arrays,
    save_checkpoint,
)
from minibrillm.scoring import WINDOW, window_loss
from minibrillm.text import Windows

Array = np.ndarray

_CURVE_TOKENS = 128 * WINDOW  # of the held-out text, for the curve; the final table reads it all
_COLUMNS = (
    "step",
    "seconds",
    "tokens",
    "learning_rate",
    "train_loss",
    "gradient_norm",
    "heldout_loss",
)


@dataclass(frozen=True)
class Record:
    """One step of the history. Losses in nats per token; ``heldout_loss`` nan if not measured."""

    step: int
    seconds: float
    tokens: int
    learning_rate: float
    train_loss: float
    gradient_norm: float
    heldout_loss: float = math.nan


def training_memory(
    config: ModelConfig, n_nodes: int, n_edges: int, width: int | None = None
) -> int:
    """Bytes that training takes in float32: parameters, gradients, two moments, the average, and
    the best of it so far.

    The kernels add copies of what they pad to whole vectors (parameters and gradients), and of
    the synapses, transposed. Measured with 0.3 to 3.8 GB of parameters, the largest resident
    memory of a run, fresh or resumed, was 0.2 to 0.5 GB above this: the process and its batch.
    Checkpoints take no more (but safetensors before 0.8 copies all that it saves).

    Parameters
    ----------
    n_nodes, n_edges : int
        V and E.
    width : int, optional
        d as the kernels pad it; without it, as they do on this machine.
    """
    from minibrillm import kernels

    width = width or kernels._width(config, np.float32)
    size = 4 * config.n_parameters(n_nodes, n_edges)
    padded = 4 * config.replace(d_node=width).n_parameters(n_nodes, n_edges)
    copies = 2 * (width != config.d_node) + (config.edges == "three_part")
    return 6 * size + copies * padded


_CGROUP = Path("/sys/fs/cgroup")  # the limits of a container on Linux


def free_memory() -> int:
    """Bytes a process can still take on this machine, or in this container if that is less."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError, KeyError):  # no container, or "max": no limit of its own
        limit = int((_CGROUP / "memory.max").read_text(encoding="utf-8"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
        free = min(free, limit - int(dict(line.split() for line in lines)["anon"]))
    return free


def check_memory(config: ModelConfig, n_nodes: int, n_edges: int, free: int) -> None:
    """Refuse training that needs more than ``free`` bytes, and name a size that fits."""
    need = training_memory(config, n_nodes, n_edges)
    if need <= free:
        return
    advice = "a larger --min-count leaves fewer edges"
    for d in (*range((config.d_node - 1) // 16 * 16, 0, -16), 8, 4):
        smaller = training_memory(config.replace(d_node=d), n_nodes, n_edges)
        if d < config.d_node and smaller <= free:
            advice = f"a new run with --d-node {d} needs about {smaller / 1e9:.1f} GB, and {advice}"
            break
    raise UserError(
        f"training needs about {need / 1e9:.1f} GB of memory, {max(free, 0) / 1e9:.1f} GB are "
        f"free; {advice}"
    )


class Interrupted(Exception):
    """Training was interrupted (Ctrl-C) after a complete step; a run in a folder has saved it."""


def curve_part(documents: Sequence[Array]) -> list[Array]:
    """The first documents of a held-out text: enough for a curve, quick to score."""
    part, read = [], 0
    for document in documents:
        if read < _CURVE_TOKENS:
            part.append(document[: _CURVE_TOKENS - read + 1])
            read += len(document)
    return part


def most_frequent_successors(model: BriLLM, k: int) -> Array:
    """The k likeliest targets of every source, for training with negatives (V, k).

    Seen successors by count, then the most frequent tokens of the text: the released training.
    """
    graph = model.graph
    k = min(k, graph.n_nodes)
    everyone = np.argsort(-graph.node_counts, kind="stable")
    out = np.empty((graph.n_nodes, k), np.int64)
    for u in range(graph.n_nodes):
        low, high = graph.indptr[u], graph.indptr[u + 1]
        own = graph.targets[low:high][np.argsort(-graph.counts[low:high], kind="stable")][:k]
        rest = everyone[~np.isin(everyone, own)][: k - len(own)]
        out[u] = np.concatenate([own, rest])
    return out


def with_negatives(tokens: Array, successors: Array) -> Array:
    """Candidates of every position: the target, then its source's successors but the target.

    (B, n + 1), (V, k) -> (B, n, k): the target takes the place of itself or of the last one.
    """
    chosen = successors[tokens[:, :-1]].copy()  # (B, n, k)
    truth = tokens[:, 1:, None]
    hit = chosen == truth
    place = np.where(hit.any(axis=2), hit.argmax(axis=2), chosen.shape[2] - 1)[..., None]
    np.put_along_axis(chosen, place, chosen[..., :1], axis=2)
    chosen[..., :1] = truth
    return chosen


class Trainer:
    """Trains a model.

    `averaged` holds the moving average of its weights, which is evaluated; `model` what is kept and
    saved: the average at the step that did best on the held-out curve, so that longer training
    never leaves a worse model. Until the first evaluation it is `averaged` itself.

    Parameters
    ----------
    model : BriLLM
        Its weights are the starting point.
    train_ids, heldout_ids : integer arrays (N,), or sequences of them
        Streams of tokens, or documents, whose ends no window crosses (`minibrillm.text.Windows`).
        The step whose weights are kept is chosen on the held-out text, nothing else.
    config : TrainConfig
    run : Path, optional
        Folder for history and checkpoints; without it nothing is written.
    count_evaluations : bool
        Whether held-out evaluations on the way use up the ``minutes``, as they do for a user; not
        where models are compared.

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
        run: Path | None = None,
        count_evaluations: bool = True,
    ) -> None:
        self.config = config
        self.count_evaluations = count_evaluations
        self.run_folder = run
        self.train_ids = as_documents(train_ids)
        self.heldout_ids = as_documents(heldout_ids)
        self.windows = Windows(self.train_ids, config.sequence_length)
        self.rng = np.random.default_rng([config.seed, 1])
        weights = {name: array.copy() for name, array in model.parameters.items()}
        self.learner = model.with_parameters(weights)
        self.optimiser = AdamW(
            weights, config, model.operations, train_shared_edge=model.config.train_shared_edge
        )
        self.averaged = model.with_parameters(self.optimiser.average)
        self.model = self.averaged
        self.kept_step: int | None = None
        self.kept_loss = math.inf
        self.step = 0
        self.seconds = 0.0
        self.history: list[Record] = []
        self._successors = (
            most_frequent_successors(model, config.negatives + 1) if config.negatives else None
        )
        self._bigrams = None  # what an n-gram prior is made blind with (`Withheld`)
        if config.leave_one_out and model.config.prior == "ngrams":
            self._bigrams = KneserNey.fit(self.train_ids, model.graph.n_nodes, 2)
        self._stop_requested = False
        self._saved_step = -1
        limit = model.max_positions
        if limit is not None and config.sequence_length > limit:
            raise UserError(
                f"sequence_length is {config.sequence_length}, but the model knows only "
                f"{limit} positions (max_positions)"
            )
        longest = max(len(d) for d in self.heldout_ids)
        if longest < 2:
            raise UserError(f"the held-out text has {longest} tokens; it takes at least 2")

    # ------------------------------------------------------------------------- save and resume

    @classmethod
    def start(
        cls,
        model: BriLLM,
        train_ids: Array | Sequence[Array],
        heldout_ids: Array | Sequence[Array],
        config: TrainConfig,
        run: Path,
    ) -> Trainer:
        """A trainer that keeps its run in a folder, which must not hold another run."""
        trainer = cls(model, train_ids, heldout_ids, config, run)  # refuses before it writes
        try:
            run.mkdir(parents=True, exist_ok=True)
            if latest_checkpoint(run) is not None:
                raise UserError(
                    f"{run} already holds a run; add --resume to go on with it, or choose another"
                )
            save_text(run, trainer.train_ids, trainer.heldout_ids)
        except OSError as error:
            raise UserError(f"cannot write to {run}: {error.strerror}; choose another") from None
        trainer.save()  # from the first moment on, a killed run can be resumed
        return trainer

    @classmethod
    def resume(cls, run: Path, backend: str | None = None, **changes: Any) -> Trainer:
        """Go on with the newest checkpoint, bit for bit as if the run had never stopped.

        (A run limited by ``minutes`` follows the clock, so its bits differ from run to run.)

        Parameters
        ----------
        backend : str, optional
            Another backend than the run's own.
        **changes
            Settings of `TrainConfig` to change, such as ``steps``.
        """
        free = free_memory()
        state = load_training(run)
        model = load_model(run, backend or str(state.settings.get("backend", "numba")))
        check_memory(model.config, model.graph.n_nodes, model.graph.n_edges, free)
        text = load_text(run)
        try:
            settings = {**state.settings["config"], **changes}
            # A flag before it was a share.
            settings["leave_one_out"] = float(settings.get("leave_one_out", 0))
            digest, random_state = (state.settings[k] for k in ("text_sha256", "random_state"))
        except (KeyError, TypeError) as error:
            raise UserError(f"the training state of {run} is damaged ({error})") from None
        if digest != text_digest(text["train"], text["heldout"]):
            raise UserError(f"{run / 'text.safetensors'} is not the text of this run; train anew")
        trainer = cls(model, text["train"], text["heldout"], TrainConfig.from_json(settings), run)
        try:
            for group, own in trainer._arrays().items():
                if group == "average" and not any(n.startswith("average.") for n in state.arrays):
                    continue  # the average is the model itself
                kept = {name: state.arrays.pop(f"{group}.{name}") for name in own}
                check_parameters(model.config, model.graph.n_nodes, model.graph.n_edges, kept)
                for name, array in own.items():
                    array[...] = kept[name]  # and what was read goes
            if "kept_step" in state.settings:
                trainer.kept_step = int(state.settings["kept_step"])
                trainer.kept_loss = float(state.settings["kept_loss"])
                trainer.model = model
            trainer.rng.bit_generator.state = random_state
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the training state of {run} is damaged ({error})") from None
        trainer.step = trainer._saved_step = state.step
        trainer.history = [r for r in read_history(run) if r.step <= state.step]
        trainer.seconds = trainer.history[-1].seconds if trainer.history else 0.0
        return trainer

    def save(self) -> None:
        """Write a checkpoint, unless this step has one."""
        if self.run_folder is None or self._saved_step == self.step:
            return
        groups = self._arrays()
        if self.model is self.averaged:
            del groups["average"]  # it is the model
        arrays = {f"{g}.{n}": a for g, named in groups.items() for n, a in named.items()}
        settings: dict[str, Any] = {
            "config": self.config.to_json(),
            "backend": self.model.backend,
            "random_state": self.rng.bit_generator.state,
            "text_sha256": text_digest(self.train_ids, self.heldout_ids),
        }
        if self.kept_step is not None:
            settings |= {"kept_step": self.kept_step, "kept_loss": self.kept_loss}
        save_checkpoint(self.run_folder, self.model, TrainingState(self.step, arrays, settings))
        self._saved_step = self.step

    def _arrays(self) -> dict[str, Parameters]:
        """What a resumed run needs besides the model."""
        return {
            "weights": self.learner.parameters,
            "mean": self.optimiser.mean,
            "square": self.optimiser.square,
            "average": self.optimiser.average,
        }

    # ------------------------------------------------------------------------------------ loop

    @property
    def progress(self) -> float:
        """Share of the run that is over, by steps or by time, whichever is further."""
        shares = [0.0]
        if self.config.steps is not None:
            shares.append(self.step / self.config.steps)
        if self.config.minutes is not None:
            shares.append(self.seconds / (60 * self.config.minutes))
        return max(shares)

    @property
    def kept(self) -> tuple[int, int]:
        """The step whose weights `model` has, and the last one."""
        return self.step if self.kept_step is None else self.kept_step, self.step

    def heldout_loss(self) -> float:
        """Held-out nats per token of the averaged weights, on the part used for the curve."""
        return window_loss(self.averaged, curve_part(self.heldout_ids))

    def _keep_if_best(self, heldout: float, last: bool) -> None:
        """Keep the average as it is now if no step before was better on the held-out text."""
        if not heldout < self.kept_loss:
            return
        self.kept_loss, self.kept_step = heldout, self.step
        if last:  # nothing moves it any more
            self.model = self.averaged
        elif self.model is self.averaged:
            copy = {name: array.copy() for name, array in self.optimiser.average.items()}
            self.model = self.averaged.with_parameters(copy)
        else:
            for name, array in self.optimiser.average.items():
                self.model.parameters[name][...] = array

    def train_step(self) -> Record:
        """Draw a batch, find the gradients, update; a loss that is not finite is a `UserError`."""
        config = self.config
        rate = learning_rate(config, self.step, self.progress)
        tokens, weights = self.windows.draw(config.batch_size, self.rng)
        candidates = None
        if self._successors is not None:
            candidates = with_negatives(tokens, self._successors)
        extras = self._extras(tokens, self.rng)
        loss, gradients = self.learner.loss_and_gradients(tokens, candidates, weights, **extras)
        if not self._leaves_one_out and "context_trust" in gradients:
            gradients["context_trust"][...] = 0  # counts that know the answer earn no trust
        if math.isfinite(loss):
            norm = self.optimiser.update(gradients, self.step + 1, rate)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            last = latest_checkpoint(self.run_folder) if self.run_folder else None
            what = (
                f"gradient's norm became {norm}" if math.isfinite(loss) else f"loss became {loss}"
            )
            raise UserError(
                f"the {what} at step {self.step + 1}; "
                f"last good checkpoint: {last or 'none'}; {remedy(self.learner)}"
            )
        self.step += 1
        positions = config.batch_size * config.sequence_length
        return Record(self.step, self.seconds, self.step * positions, rate, loss, norm)

    def train(
        self,
        *,
        progress_bar: bool = True,
        on_step: Callable[[Record], None] | None = None,
    ) -> list[Record]:
        """Train to the end of the run and return the history.

        Raises
        ------
        Interrupted
            After Ctrl-C, once the current step is complete and saved.
        UserError
            The loss is not finite, or a checkpoint cannot be written.
        """
        config = self.config
        self._warm_up()
        began = time.perf_counter() - self.seconds
        with self._history_file() as write, self._bar(progress_bar) as bar, self._catch_interrupt():
            while self.progress < 1:
                record = self.train_step()
                self.seconds = time.perf_counter() - began
                last = self.progress >= 1
                heldout = math.nan
                if last or (config.evaluate_every and self.step % config.evaluate_every == 0):
                    before = time.perf_counter()
                    heldout = self.heldout_loss()
                    if not self.count_evaluations:
                        began += time.perf_counter() - before
                    self.seconds = time.perf_counter() - began
                    last = self.progress >= 1  # the evaluation may have used up the time
                    self._keep_if_best(heldout, last)
                record = Record(
                    **{**vars(record), "seconds": self.seconds, "heldout_loss": heldout}
                )
                self.history.append(record)
                write(record)
                if on_step is not None:
                    on_step(record)
                self._show(bar, record)
                stop = self._stop_requested
                every = config.checkpoint_every
                if last or stop or (every and self.step % every == 0):
                    self.save()
                    self.seconds = time.perf_counter() - began
                if stop and not last:
                    raise Interrupted(f"interrupted after step {self.step}")
        return self.history

    @property
    def _leaves_one_out(self) -> bool:
        """Whether this step counts an n-gram prior without what is to be foretold."""
        share = self.config.leave_one_out
        return self._bigrams is not None and int((self.step + 1) * share) > int(self.step * share)

    def _extras(self, tokens: Array, rng: np.random.Generator) -> dict[str, Any]:
        """What this run's gradients take besides the batch; dropout and rounding are drawn anew."""
        config = self.config
        extras: dict[str, Any] = {"bigrams": self._bigrams} if self._leaves_one_out else {}
        if config.dropout:
            parameters = self.learner.parameters
            dtype, d = next(iter(parameters.values())).dtype, self.learner.config.d_node
            kept = rng.random((len(tokens), d)) >= config.dropout
            extras["mask"] = kept.astype(dtype) / dtype.type(1 - config.dropout)
        if config.round_below:
            draws = rng.random(tokens[:, 1:].shape)
            extras["rounding"] = Rounding(config.round_below, draws)
        return extras

    def _warm_up(self) -> None:
        """Compile what the loop calls, before the clock starts."""
        # A whole batch: which kernels compete depends on its size.
        rng = np.random.default_rng(0)
        tokens, _ = self.windows.draw(self.config.batch_size, rng)
        self.learner.loss_and_gradients(tokens, **self._extras(tokens, rng))
        self.model.nll(tokens)
        arrays = [np.zeros(1, next(iter(self.model.parameters.values())).dtype) for _ in range(5)]
        self.learner.operations.adamw(*arrays, 1.0, 1, 0.0, 0.0, 0.5, 0.5, 1e-8, 0.5)

    def _bar(self, shown: bool) -> Any:
        by_steps = self.config.minutes is None
        seconds = 60 * (self.config.minutes or 0)  # infinite: until Ctrl-C
        timed = round(seconds) if math.isfinite(seconds) else None
        return tqdm(
            total=self.config.steps if by_steps else timed,
            initial=self.step if by_steps else int(self.seconds),
            unit="step" if by_steps else "s",
            disable=not shown,
            dynamic_ncols=True,
        )

    def _show(self, bar: Any, record: Record) -> None:
        """Move the progress bar on; a dozen times a second at most is tqdm's own care."""
        done = record.step if self.config.minutes is None else int(record.seconds)
        bar.update(min(done, bar.total or done) - bar.n)
        heldout = next(
            (r.heldout_loss for r in reversed(self.history) if not math.isnan(r.heldout_loss)), None
        )
        text = f"loss {record.train_loss:.3f}"
        bar.set_postfix_str(text + (f", held out {heldout:.3f}" if heldout else ""), refresh=False)

    @contextmanager
    def _history_file(self) -> Iterator[Callable[[Record], None]]:
        """Append to history.csv as the run goes; rows after the checkpoint are dropped first."""
        if self.run_folder is None:
            yield lambda record: None
            return
        path = self.run_folder / "history.csv"
        kept = path.with_name("history.csv.tmp")
        try:
            with kept.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([_COLUMNS, *map(_row, self.history)])
            kept.replace(path)
            file = path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            kept.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        writer = csv.writer(file)

        def write(record: Record) -> None:
            try:
                writer.writerow(_row(record))
                file.flush()
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror}") from None

        try:
            yield write
        finally:
            with suppress(OSError):  # a row that did not fit on the disk was reported by write
                file.close()

    @contextmanager
    def _catch_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C finish the step and save; a second one stops at once."""
        self._stop_requested = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def request(number: int, frame: Any) -> None:
            self._stop_requested = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _row(record: Record) -> list[float | str]:
    """A line of history.csv; what was not measured stays empty."""
    values = [getattr(record, name) for name in _COLUMNS]
    return ["" if isinstance(x, float) and math.isnan(x) else x for x in values]


def read_history(run: Path) -> list[Record]:
    """The history of a run, from its CSV file; a row cut short by a crash ends it."""
    path = run / "history.csv"
    if not path.is_file():
        return []
    records = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                step, tokens = int(row["step"]), int(row["tokens"])
                rest = {k: float(row[k]) if row[k] else math.nan for k in _COLUMNS[3:]}
                records.append(Record(step, float(row["seconds"]), tokens, **rest))
            except (KeyError, TypeError, ValueError):
                break
    return records


def save_text(run: Path, train: Sequence[Array], heldout: Sequence[Array]) -> None:
    """Write the documents of a run: their token ids, and how many each has."""
    arrays = {}
    for name, documents in (("train", train), ("heldout", heldout)):
        arrays[name] = np.concatenate(documents).astype(np.int32)
        arrays[f"{name}_lengths"] = np.array([len(d) for d in documents], np.int32)
    save_arrays(run / "text.safetensors", arrays)


def load_text(run: Path) -> dict[str, list[Array]]:
    """Token ids of the training and held-out documents of a run, int64."""
    path = run / "text.safetensors"
    arrays, text = read_arrays(path), {}
    for name in ("train", "heldout"):
        ids, lengths = arrays.get(name), arrays.get(f"{name}_lengths")
        if ids is None or lengths is None or ids.size != lengths.sum() or lengths.min() < 0:
            raise UserError(f"{path} is damaged: no {name} text with the lengths of its documents")
        text[name] = np.split(ids.astype(np.int64), np.cumsum(lengths[:-1]))
    return text


def text_digest(train_ids: Sequence[Array], heldout_ids: Sequence[Array]) -> str:
    """sha256 over the token ids of a run's documents: is it the same text?"""
    digest = hashlib.sha256()
    for documents in (train_ids, heldout_ids):
        for ids in documents:
            digest.update(np.asarray(ids, "<i8").tobytes())
            digest.update(b"|")
        digest.update(b"|")
    return digest.hexdigest()
