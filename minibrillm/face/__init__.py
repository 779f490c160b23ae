"""What users import from `minibrillm` itself; each name loads its file when it is first used."""

from importlib import import_module  # noqa: TID251 (the files are those that type checkers see)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minibrillm.checks import UserError
    from minibrillm.config import ModelConfig, TrainConfig
    from minibrillm.generation import Sampling
    from minibrillm.graph import TokenGraph
    from minibrillm.judging import evaluate
    from minibrillm.look import trace
    from minibrillm.model import BriLLM
    from minibrillm.runs import Run, load, save
    from minibrillm.text import bundled
    from minibrillm.training import Trainer

_FILES = {
    "checks": ("UserError",),
    "config": ("ModelConfig", "TrainConfig"),
    "generation": ("Sampling",),
    "graph": ("TokenGraph",),
    "judging": ("evaluate",),
    "look": ("trace",),
    "model": ("BriLLM",),
    "runs": ("Run", "load", "save"),
    "text": ("bundled",),
    "training": ("Trainer",),
}

__all__ = [
    "BriLLM",
    "ModelConfig",
    "Run",
    "Sampling",
    "TokenGraph",
    "TrainConfig",
    "Trainer",
    "UserError",
    "bundled",
    "evaluate",
    "load",
    "save",
    "trace",
]


def __getattr__(name: str) -> Any:
    for file, names in _FILES.items():
        if name in names:
            return getattr(import_module(f"minibrillm.{file}"), name)
    raise AttributeError(f"module 'minibrillm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
