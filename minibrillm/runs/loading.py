"""Models and trainings read back from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minibrillm import __version__
from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.model import BriLLM
from minibrillm.storage import (
    FORMAT,
    TrainingState,
    graph_from_arrays,
    latest_checkpoint,
    read_arrays,
    read_json,
)
from minibrillm.text import tokenizer_from_json


def load(run: str | Path, backend: str = "numba") -> BriLLM:
    """The model of the newest checkpoint of a run (or of a checkpoint folder itself).

    Raises
    ------
    UserError
        No checkpoint, one of another format version, a damaged file, NaN in the weights.
    """
    checkpoint = _find(run)
    about = read_json(checkpoint / "model.json")
    if about.get("format") != FORMAT:
        raise UserError(
            f"{checkpoint} has checkpoint format {about.get('format')!r} (minibrillm "
            f"{about.get('minibrillm', 'unknown')}); this is minibrillm {__version__}, which "
            f"reads format {FORMAT}: use the version that wrote it, or train again"
        )
    try:
        settings = about["config"]
        if isinstance(settings, dict):  # before signals had a bound, none was written down
            settings = {"signal_bound": 0.0, **settings}
        config = ModelConfig.from_json(settings)
        tokenizer = tokenizer_from_json(about["tokenizer"])
        arrays = read_arrays(checkpoint / "model.safetensors")
        # Copies: what goes on with the graph alone must not keep the whole file on the disk.
        graph_arrays = {
            k: a.copy() for k, a in arrays.items() if k.startswith(("graph.", "prior."))
        }
        parameters = {k: a for k, a in arrays.items() if k not in graph_arrays}
        graph = graph_from_arrays(graph_arrays)
        return BriLLM(config, tokenizer, graph, parameters, backend)
    except KeyError as error:
        raise UserError(f"{checkpoint / 'model.json'} lacks {error}; is it damaged?") from None
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from None


def has_training(run: str | Path) -> bool:
    """Whether a run was trained here: what is only imported has no training state."""
    return (_find(run) / "training.json").is_file()


def kept_steps(run: str | Path) -> tuple[int, int]:
    """The step whose weights a run's model has, and the last one."""
    path = _find(run) / "training.json"
    settings = read_json(path)
    last = _step(path, settings.get("step"))
    return _step(path, settings.get("kept_step", last)), last


def _step(path: Path, value: Any) -> int:
    """A step as `path` holds it, or a `UserError`."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(f"{path} lacks the step; is it damaged?") from None


def load_training(run: str | Path) -> TrainingState:
    """What `save_checkpoint` kept of the training; a `UserError` where there is none."""
    checkpoint = _find(run)
    if not has_training(checkpoint):
        raise UserError(f"{checkpoint} holds a finished model without training state; train anew")
    path = checkpoint / "training.json"
    settings = read_json(path)
    step = _step(path, settings.pop("step", None))
    return TrainingState(step, read_arrays(checkpoint / "training.safetensors"), settings)


def _find(run: str | Path) -> Path:
    """The checkpoint of a run, or a `UserError`."""
    run = Path(run)
    if (run / "model.json").is_file():
        return run
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        state = "has no checkpoint" if run.is_dir() else "is not a folder"
        raise UserError(f"{run} {state}; make a run with Run.start, or minibrillm train")
    return checkpoint
