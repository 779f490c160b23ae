"""What callers give: is it possible, and if not, what to do."""

from minibrillm.checks.documents import as_documents, as_ids
from minibrillm.checks.errors import UserError

__all__ = ["UserError", "as_documents", "as_ids"]
