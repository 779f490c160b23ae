"""The files of the released code, in and out; `minibrillm.released.parity` compares results."""

from minibrillm.released.read import read_released
from minibrillm.released.write import write_released

__all__ = ["read_released", "write_released"]
