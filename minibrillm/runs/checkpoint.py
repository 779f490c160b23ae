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

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from minibrillm import __version__
from minibrillm.config import ModelConfig
from minibrillm.checks import UserError
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.text import tokenizer_from_json

Array = np.ndarray

FORMAT = 1
_STEP = re.compile(r"step-(\d{8,})")


@dataclass
class TrainingState:
    """What training needs besides the model to go on as if it had never stopped."""

    step: int
    arrays: dict[str, Array]  # "weights.NAME", "mean.NAME", "square.NAME"
    settings: dict[str, Any]  # JSON: training config, random state


def save_checkpoint(run: Path, model: BriLLM, training: TrainingState | None = None) -> Path:
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
        _write_json(temporary / "model.json", about)
        _write_arrays(temporary / "model.safetensors", model.parameters | model.graph.to_arrays())
        if training is not None:
            _write_json(temporary / "training.json", {"step": step, **training.settings})
            _write_arrays(temporary / "training.safetensors", training.arrays)
        if target.exists():  # the same step again: step aside first, a folder cannot be replaced
            shutil.rmtree(folder / "old", ignore_errors=True)
            _rename(target, folder / "old")
        _rename(temporary, target)
        _flush_folder(folder)
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


def load_model(run: Path, backend: str = "numba") -> BriLLM:
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
        graph = TokenGraph.from_arrays(graph_arrays)
        return BriLLM(config, tokenizer, graph, parameters, backend)
    except KeyError as error:
        raise UserError(f"{checkpoint / 'model.json'} lacks {error}; is it damaged?") from None
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from None


def has_training(run: Path) -> bool:
    """Whether a run was trained here: what is only imported has no training state."""
    return (_find(run) / "training.json").is_file()


def kept_steps(run: Path) -> tuple[int, int]:
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


def load_training(run: Path) -> TrainingState:
    """What `save_checkpoint` kept of the training; a `UserError` where there is none."""
    checkpoint = _find(run)
    if not has_training(checkpoint):
        raise UserError(f"{checkpoint} holds a finished model without training state; train anew")
    path = checkpoint / "training.json"
    settings = read_json(path)
    step = _step(path, settings.pop("step", None))
    return TrainingState(step, read_arrays(checkpoint / "training.safetensors"), settings)


def _find(run: Path) -> Path:
    if (run / "model.json").is_file():
        return run
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        state = "has no checkpoint" if run.is_dir() else "is not a folder"
        raise UserError(f"{run} {state}; make a run with: minibrillm train TEXT --out {run}")
    return checkpoint


# ------------------------------------------------------------------------------------ files


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays under a temporary name, flush and rename; a full disk is a `UserError`."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        _write_arrays(temporary, arrays)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error}") from None


def _write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
    _flush(path)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    _flush(path)


def read_arrays(path: Path) -> dict[str, Array]:
    """Read a safetensors file; a missing or damaged one is a `UserError`.

    The arrays can be changed, the file does not change with them. Where the system allows it
    they are the file itself, mapped: parts of a large model that are never used cost no time
    after the check, and what is used can be dropped when memory runs short.
    """
    try:
        # Elsewhere a mapped file cannot be deleted, as old checkpoints are.
        return _map_arrays(path) if os.name == "posix" else dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is the run complete?") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short ({error})") from None


def _map_arrays(path: Path) -> dict[str, Array]:
    with safe_open(path, framework="numpy"):
        pass  # it refuses a damaged header and a file cut short
    arrays = {}
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        for name, about in header.items():
            kind, bits = about["dtype"][0], int(about["dtype"][1:])  # such as F32, I64
            dtype = np.dtype(f"<{kind.lower()}{bits // 8}")
            offset, shape = start + about["data_offsets"][0], tuple(about["shape"])
            arrays[name] = np.memmap(file, dtype, "c", offset, shape).view(np.ndarray)
    return arrays


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or damaged file is a `UserError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is the run complete?") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (expected a JSON object)")
    return value


def _rename(source: Path, target: Path) -> None:
    """Rename a folder, patiently: on Windows a virus scanner may hold a fresh file for a moment."""
    for wait in (0.05, 0.2, 0.8):
        try:
            source.rename(target)
            return
        except PermissionError:
            time.sleep(wait)
    source.rename(target)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
