"""minibrillm: BriLLM, the signal-flow language model, as a textbook that runs."""

import os

# Waiting OpenMP threads sleep instead of spinning: on a busy machine a parallel kernel costs
# microseconds instead of milliseconds. It must be set before Numba starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
