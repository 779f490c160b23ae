"""minibrillm: BriLLM, the signal-flow language model, as a textbook that runs.

An evening, in reading order: `functional` (small functions beside their way back), `graph`, `edges`
and `memory` (one class for each kind), `config`, `optim`, `reference` (THE TEXTBOOK: forward and
backward), `generation`, `model`, `training`; with MODEL.md beside them. Every folder is a room, and
its name says what it is for; those that the evening imports (checks, text, counting …) may be
trusted for now. For speed, go on with `kernels.path`.
"""

import os
from typing import TYPE_CHECKING

from minibrillm.face import __all__ as __all__
from minibrillm.face import __dir__ as __dir__
from minibrillm.face import __getattr__ as __getattr__

if TYPE_CHECKING:
    from minibrillm.face import *  # noqa: F403

# Waiting OpenMP threads sleep instead of spinning: on a busy machine a parallel kernel costs
# microseconds instead of milliseconds. It must be set before Numba starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
