"""A training that is kept in a folder, and goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minibrillm.checks import Diverged, UserError, check_parameters
from minibrillm.config import TrainConfig
from minibrillm.machine import Interrupted, free_memory
from minibrillm.model import BriLLM
from minibrillm.runs.loading import load, load_training
from minibrillm.runs.memory import check_memory
from minibrillm.runs.texts import load_text, save_text, text_digest
from minibrillm.storage import (
    History,
    Record,
    TrainingState,
    history_file,
    latest_checkpoint,
    read_history,
    save_checkpoint,
)
from minibrillm.training import Trainer

Array = np.ndarray
Parameters = dict[str, Array]


class Run:
    """A `Trainer` and its folder: history.csv grows as it goes, checkpoints come and go.

    Make one with `Run.start` or `Run.resume`.
    """

    def __init__(self, folder: Path, trainer: Trainer) -> None:
        self.folder, self.trainer = folder, trainer
        self._saved_step = -1

    @property
    def model(self) -> BriLLM:
        """The model that is trained."""
        return self.trainer.model

    @classmethod
    def start(
        cls,
        folder: str | Path,
        model: BriLLM,
        train_ids: Array | Sequence[Array],
        heldout_ids: Array | Sequence[Array],
        config: TrainConfig,
    ) -> Run:
        """A new training in a folder, which must not keep another; arguments as for `Trainer`."""
        run = cls(Path(folder), Trainer(model, train_ids, heldout_ids, config))  # it may refuse
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            if latest_checkpoint(run.folder) is not None:
                raise UserError(
                    f"{folder} already holds a run; go on with it (resume), or choose another"
                )
            save_text(run.folder, run.trainer.train_ids, run.trainer.heldout_ids)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; choose another") from None
        run.save()  # from the first moment on, a killed run can be resumed
        return run

    @classmethod
    def resume(cls, folder: str | Path, backend: str | None = None, **changes: Any) -> Run:
        """Go on with the newest checkpoint, bit for bit as if the run had never stopped.

        (A run limited by ``minutes`` follows the clock, so its bits differ from run to run.)

        Parameters
        ----------
        backend : str, optional
            Another backend than the run's own.
        **changes
            Settings of `TrainConfig` to change, such as ``steps``.
        """
        folder, free = Path(folder), free_memory()
        state = load_training(folder)
        model = load(folder, backend or str(state.settings.get("backend", "numba")))
        check_memory(model.config, model.graph.n_nodes, model.graph.n_edges, free)
        text = load_text(folder)
        try:
            settings = {**state.settings["config"], **changes}
            # A flag before it was a share.
            settings["leave_one_out"] = float(settings.get("leave_one_out", 0))
            digest, random_state = (state.settings[k] for k in ("text_sha256", "random_state"))
        except (KeyError, TypeError) as error:
            raise UserError(f"the training state of {folder} is damaged ({error})") from None
        if digest != text_digest(text["train"], text["heldout"]):
            raise UserError(
                f"{folder / 'text.safetensors'} is not the text of this run; train anew"
            )
        config = TrainConfig.from_json(settings)
        trainer = Trainer(model, text["train"], text["heldout"], config)
        try:
            _restore(trainer, state)
            trainer.rng.bit_generator.state = random_state
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the training state of {folder} is damaged ({error})") from None
        trainer.history = History(r for r in read_history(folder) if r.step <= state.step)
        trainer.seconds = trainer.history[-1].seconds if trainer.history else 0.0
        run = cls(folder, trainer)
        run._saved_step = state.step
        return run

    def train(
        self, *, progress_bar: bool = True, on_step: Callable[[Record], None] | None = None
    ) -> History:
        """As `Trainer.train`, with a checkpoint now and then, at the end, and after Ctrl-C."""
        trainer, every = self.trainer, self.trainer.config.checkpoint_every
        with history_file(self.folder, trainer.history) as write:

            def kept(record: Record) -> None:
                write(record)
                if on_step is not None:
                    on_step(record)
                if trainer.progress >= 1 or (every and trainer.step % every == 0):
                    self.save()

            try:
                return trainer.train(progress_bar=progress_bar, on_step=kept)
            except Interrupted:
                self.save()
                raise
            except Diverged as error:
                last = latest_checkpoint(self.folder)
                raise UserError(f"{error}; last good checkpoint: {last}") from None

    def save(self) -> None:
        """Write a checkpoint, unless this step has one."""
        trainer = self.trainer
        if self._saved_step == trainer.step:
            return
        settings: dict[str, Any] = {
            "config": trainer.config.to_json(),
            "backend": trainer.model.backend,
            "random_state": trainer.rng.bit_generator.state,
            "text_sha256": text_digest(trainer.train_ids, trainer.heldout_ids),
        }
        groups = _groups(trainer)
        if trainer.kept_step is None:
            trainer.keep()  # nothing is known to be better than the average as it is
            del groups["average"]  # it is the model
        else:
            settings |= {"kept_step": trainer.kept_step, "kept_loss": trainer.kept_loss}
        arrays = {f"{g}.{n}": a for g, named in groups.items() for n, a in named.items()}
        save_checkpoint(self.folder, trainer.model, TrainingState(trainer.step, arrays, settings))
        self._saved_step = trainer.step


def _groups(trainer: Trainer) -> dict[str, Parameters]:
    """What a resumed run needs besides the model."""
    optimiser = trainer.optimiser
    return {
        "weights": trainer.learner.parameters,
        "mean": optimiser.mean,
        "square": optimiser.square,
        "average": optimiser.average,
    }


def _restore(trainer: Trainer, state: TrainingState) -> None:
    """Bring a trainer to where a training stood; raises `KeyError`, `ValueError` on damage."""
    config, graph = trainer.model.config, trainer.model.graph
    shapes = config.shapes(graph.n_nodes, graph.n_edges)
    for group, own in _groups(trainer).items():
        if group == "average" and not any(n.startswith("average.") for n in state.arrays):
            continue  # the average is the model itself
        kept = {name: state.arrays.pop(f"{group}.{name}") for name in own}
        check_parameters(shapes, kept)
        for name, array in own.items():
            array[...] = kept[name]  # and what was read goes
    if "kept_step" in state.settings:
        trainer.kept_step = int(state.settings["kept_step"])
        trainer.kept_loss = float(state.settings["kept_loss"])
    trainer.step = state.step
