"""PyTorch, or how to install it: every file of this room takes it from here.

torch is an optional extra. Without it, importing this file is a `UserError`.
"""

import os

from minibrillm.checks import UserError

# NumPy asks the system for huge pages of memory, PyTorch only where this is set: fairness.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # a broken installation: its own message says more
    raise UserError(
        'the rivals are written in PyTorch; install it with: pip install "minibrillm[torch]"'
    ) from None

__all__ = ["F", "Tensor", "nn", "set_threads", "torch"]


def set_threads(n: int) -> None:
    """Let PyTorch use n threads in each operation."""
    torch.set_num_threads(n)
