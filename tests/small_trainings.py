"""Trainings of a second or less, in a folder or without one, that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minibrillm.config import TrainConfig
from minibrillm.model import BriLLM
from minibrillm.runs import Run
from minibrillm.storage import History, Record, latest_checkpoint
from minibrillm.training import Trainer

TEXT = "我爱妈妈。妈妈爱我。\nthe cat sat on the mat. a dog ran.\n" * 8
# Enough for a loss to fall.
LEARN = {"steps": 30, "batch_size": 8, "sequence_length": 16, "learning_rate": 0.02}


def tiny(preset: str = "mini", backend: str = "numpy", **changes: Any) -> BriLLM:
    few = {"d_node": 8, "min_count": 1}
    return BriLLM.from_text(TEXT, preset, backend=backend, **{**few, **changes})


def config(**changes: Any) -> TrainConfig:
    few = {"steps": 8, "batch_size": 4, "sequence_length": 8, "warmup_steps": 2}
    return TrainConfig.from_json({**few, **changes})


def loose(model: BriLLM | None = None, **changes: Any) -> Trainer:
    """A trainer that writes nothing."""
    model = model or tiny()
    ids = model.tokenizer.encode(TEXT)
    return Trainer(model, ids[:-60], ids[-60:], config(**changes))


def begin(folder: Path, model: BriLLM | None = None, **changes: Any) -> Run:
    """The same training, kept in a folder."""
    model = model or tiny()
    ids = model.tokenizer.encode(TEXT)
    return Run.start(folder, model, ids[:-60], ids[-60:], config(**changes))


def train(training: Trainer | Run, on_step: Callable[[Record], None] | None = None) -> History:
    return training.train(progress_bar=False, on_step=on_step)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the newest checkpoint, and the text."""
    newest = latest_checkpoint(folder)
    assert newest is not None
    files = {p.name: p.read_bytes() for p in newest.iterdir()}
    assert len(files) == 4
    text = (folder / "text.safetensors").read_bytes()
    return {"step": newest.name.encode(), "text": text} | files


def timeless(history: History) -> list[tuple[object, ...]]:
    """Rows without their seconds; text, so that nan equals nan."""
    return [tuple(str(x) for k, x in vars(r).items() if k != "seconds") for r in history]


def stop_at(step: int) -> Callable[[Record], None]:
    def interrupt(record: Record) -> None:
        if record.step == step:
            signal.raise_signal(signal.SIGINT)

    return interrupt


class Crash(Exception):
    """A program that ends before its time."""


def crash_at(step: int) -> Callable[[Record], None]:
    def crash(record: Record) -> None:
        if record.step == step:
            raise Crash

    return crash
