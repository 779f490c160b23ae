"""The machine a training runs on: its memory, Ctrl-C, a progress bar, sums in a fixed order."""

from minibrillm.machine.interrupt import Interrupted, interruptible
from minibrillm.machine.memory import free_memory
from minibrillm.machine.progress import progress_bar
from minibrillm.machine.squares import SQUARES_BLOCK, SQUARES_LANES, sum_of_squares

__all__ = [
    "SQUARES_BLOCK",
    "SQUARES_LANES",
    "Interrupted",
    "free_memory",
    "interruptible",
    "progress_bar",
    "sum_of_squares",
]
