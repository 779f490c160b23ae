"""A training kept in a folder: checkpoints, history, going on; and models read back."""

from minibrillm.runs.loading import has_training, kept_steps, load, load_training
from minibrillm.runs.memory import check_memory, training_memory
from minibrillm.runs.run import Run
from minibrillm.runs.saving import save
from minibrillm.runs.texts import load_text, text_digest

__all__ = [
    "Run",
    "check_memory",
    "has_training",
    "kept_steps",
    "load",
    "load_text",
    "load_training",
    "save",
    "text_digest",
    "training_memory",
]
