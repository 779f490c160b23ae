"""What callers give: is it possible, and if not, what to do."""

from minibrillm.checks.errors import UserError
from minibrillm.checks.remedy import remedy

__all__ = ["UserError", "remedy"]
