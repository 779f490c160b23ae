"""What callers give: is it possible, and if not, what to do."""

from minibrillm.checks.errors import UserError

__all__ = ["UserError"]
