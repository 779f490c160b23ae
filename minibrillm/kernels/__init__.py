"""The functions of `minibrillm.reference`, same names and arguments, compiled with Numba."""

from minibrillm.kernels.passes import (
    adamw,
    cache_folder,
    compete,
    energies,
    gelu_sweep,
    path_backward,
    path_forward,
    prior_rows,
    sum_of_squares,
)

__all__ = [
    "adamw",
    "cache_folder",
    "compete",
    "energies",
    "gelu_sweep",
    "path_backward",
    "path_forward",
    "prior_rows",
    "sum_of_squares",
]

SUPPORTED_EDGES = ("shared", "three_part")
