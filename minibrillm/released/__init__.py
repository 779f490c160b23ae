"""Files of the released code, and parity with it."""

from minibrillm.released.files import read_released, write_released

__all__ = ["read_released", "write_released"]
