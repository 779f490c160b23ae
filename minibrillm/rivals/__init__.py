"""The same model in PyTorch, a GPT and an LSTM; PyTorch is imported with the first name used."""

from importlib import import_module  # noqa: TID251 (of this room's own files)
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minibrillm.rivals.decoder import PerStepDecoder
    from minibrillm.rivals.gpt import GPT, GPTConfig
    from minibrillm.rivals.lstm import LSTM, LSTMConfig
    from minibrillm.rivals.peer import Peer, sliding_loss
    from minibrillm.rivals.pytorch import set_threads
    from minibrillm.rivals.recipes import Recipe, gpt_recipes, lstm_recipes
    from minibrillm.rivals.training import PeerTrainer
    from minibrillm.rivals.twin import LAYOUTS, Twin
    from minibrillm.rivals.twin_training import TwinTrainer
else:
    _FILES = {
        "decoder": ("PerStepDecoder",),
        "gpt": ("GPT", "GPTConfig"),
        "lstm": ("LSTM", "LSTMConfig"),
        "peer": ("Peer", "sliding_loss"),
        "pytorch": ("set_threads",),
        "recipes": ("Recipe", "gpt_recipes", "lstm_recipes"),
        "training": ("PeerTrainer",),
        "twin": ("LAYOUTS", "Twin"),
        "twin_training": ("TwinTrainer",),
    }

    def __getattr__(name):
        for file, names in _FILES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{file}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "GPT",
    "LAYOUTS",
    "LSTM",
    "GPTConfig",
    "LSTMConfig",
    "Peer",
    "PeerTrainer",
    "PerStepDecoder",
    "Recipe",
    "Twin",
    "TwinTrainer",
    "gpt_recipes",
    "lstm_recipes",
    "set_threads",
    "sliding_loss",
]
