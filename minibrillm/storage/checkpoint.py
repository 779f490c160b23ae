"""Checkpoints that a killed process, a full disk or another version cannot spoil.

A run is a folder::

    RUN/text.safetensors                     token ids of the training and the held-out text
    RUN/history.csv                          one row a step, written as it goes
    RUN/checkpoints/step-00000200/
        model.json                           versions, config, tokenizer: all that is not an array
        model.safetensors                    parameters and graph
        training.safetensors                 trained weights, optimiser moments
        training.json                        step, random state, training config

A checkpoint is written into a temporary folder, flushed to the disk and renamed; only then are
older ones deleted. A folder called ``step-…`` is therefore always complete.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from minibrillm import __version__
from minibrillm.checks import Network, UserError
from minibrillm.storage.files import flush_folder, rename, write_arrays, write_json
from minibrillm.storage.graphs import graph_to_arrays

Array = np.ndarray

FORMAT = 1
_STEP = re.compile(r"step-(\d{8,})")


@dataclass
class TrainingState:
    """What training needs besides the model to go on as if it had never stopped."""

    step: int
    arrays: dict[str, Array]  # "weights.NAME", "mean.NAME", "square.NAME"
    settings: dict[str, Any]  # JSON: training config, random state


def save_checkpoint(run: Path, model: Network, training: TrainingState | None = None) -> Path:
    """Write a checkpoint, then delete the ones before it.

    Parameters
    ----------
    run : Path
        Folder of the run; made if it is missing.
    model : BriLLM
        The model to evaluate and generate with (averaged weights).
    training : TrainingState, optional
        Without it the run cannot be resumed, only used.

    Returns
    -------
    Path of the new checkpoint

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written; the last checkpoint is untouched.
    """
    step = 0 if training is None else training.step
    folder = run / "checkpoints"
    target = folder / f"step-{step:08d}"
    temporary = folder / f"tmp-{os.getpid()}"
    about = {
        "format": FORMAT,
        "minibrillm": __version__,
        "dtype": str(next(iter(model.parameters.values())).dtype),
        "config": model.config.to_json(),
        "tokenizer": model.tokenizer.to_json(),
    }
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_json(temporary / "model.json", about)
        write_arrays(
            temporary / "model.safetensors", model.parameters | graph_to_arrays(model.graph)
        )
        if training is not None:
            write_json(temporary / "training.json", {"step": step, **training.settings})
            write_arrays(temporary / "training.safetensors", training.arrays)
        if target.exists():  # the same step again: step aside first, a folder cannot be replaced
            shutil.rmtree(folder / "old", ignore_errors=True)
            rename(target, folder / "old")
        rename(temporary, target)
        flush_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"cannot write a checkpoint in {folder}: {error}; earlier checkpoints are untouched"
        ) from None
    for other in folder.iterdir():
        match = _STEP.fullmatch(other.name)
        if other.is_dir() and (match is None or int(match[1]) < step):
            shutil.rmtree(other, ignore_errors=True)
    return target


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return None
    found = [p for p in folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir()]
    if not found and (folder / "old").is_dir():  # killed between the two renames of one step
        return folder / "old"
    return max(found, key=lambda p: int(p.name[5:]), default=None)


def save_model(folder: str | Path, model: Network) -> Path:
    """Write a model alone, without a training that could go on; `minibrillm.load` reads it.

    A model saved there before is replaced. Raises `UserError` where a training is kept, or where
    nothing can be written.
    """
    folder = Path(folder)
    last = latest_checkpoint(folder)
    if last is not None and (last / "training.json").is_file():
        raise UserError(f"{folder} keeps a training; choose another folder for the model")
    return save_checkpoint(folder, model)
