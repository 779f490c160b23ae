"""The functions of `minibrillm.reference`, same names and arguments, compiled with Numba."""

from minibrillm.kernels.ngram_rows import prior_rows
from minibrillm.kernels.optimiser import adamw, sum_of_squares
from minibrillm.kernels.passes import cache_folder, compete, energies, path_backward, path_forward

SUPPORTED_EDGES = ("shared", "three_part")

__all__ = [
    "SUPPORTED_EDGES",
    "adamw",
    "cache_folder",
    "compete",
    "energies",
    "path_backward",
    "path_forward",
    "prior_rows",
    "sum_of_squares",
]
