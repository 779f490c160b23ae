"""Files that a killed process or a full disk cannot spoil: arrays, JSON, models, histories."""

from minibrillm.storage.checkpoint import (
    FORMAT,
    TrainingState,
    latest_checkpoint,
    save_checkpoint,
    save_model,
)
from minibrillm.storage.files import read_arrays, read_json, save_arrays
from minibrillm.storage.graphs import graph_from_arrays, graph_to_arrays
from minibrillm.storage.history import History, Record, history_file, read_history

__all__ = [
    "FORMAT",
    "History",
    "Record",
    "TrainingState",
    "graph_from_arrays",
    "graph_to_arrays",
    "history_file",
    "latest_checkpoint",
    "read_arrays",
    "read_history",
    "read_json",
    "save_arrays",
    "save_checkpoint",
    "save_model",
]
