"""A model written into a folder of its own."""

from __future__ import annotations

from pathlib import Path

from minibrillm.model import BriLLM


def save(model: BriLLM, path: str | Path) -> None:
    """Write a model into a folder; `minibrillm.load` reads it. The same as ``model.save(path)``."""
    model.save(path)
