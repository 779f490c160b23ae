"""The functions of `minibrillm.reference`, same names and arguments, compiled with Numba.

What differs from the textbook is the order of the work, never the result (float32 to 1e-4, float64
to 1e-10). The ideas, in the order in which to read the files:

``path``
    The hot loop of the signal: all that a single position needs, forward and back. Sequences run
    in parallel.
``gelu``, ``judge``
    Activation, exponential and softmax without a branch, so that the compiler can make vector
    instructions of a loop over them.
``lanes``, ``products``
    A lane for each target: where targets compete they come last, (d, K), and every loop is long
    and contiguous. Three rows and four terms at a time: what is loaded is used often.
``composed``, ``apart``, ``kept``
    The competition. Where many positions share a source its edges are composed once and serve them
    all. Where few do, the parts of edges stay apart and their answers are added up. Of
    probabilities that were rounded few are kept, and each is found by itself.
``sort``
    Positions side by side that share a source. The work is cut into a fixed number of bins, and
    each adds up in a fixed order: the same bits come out whatever the number of threads.
``passes``, ``everyone``, ``ngram_rows``, ``optimiser``
    The public functions: they make arrays ready for the loops.
``jit``
    How a function is compiled, and a cache that knows the whole folder.
"""

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
