"""The machine a training runs on: its memory, its Ctrl-C, its progress bar."""

from minibrillm.machine.interrupt import Interrupted, interruptible
from minibrillm.machine.memory import free_memory
from minibrillm.machine.progress import progress_bar

__all__ = ["Interrupted", "free_memory", "interruptible", "progress_bar"]
