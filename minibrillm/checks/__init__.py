"""What callers give: is it possible, and if not, what to do."""

from minibrillm.checks import ranges
from minibrillm.checks.above import Graph, Network, Reader, Settings, Standing
from minibrillm.checks.arguments import (
    as_array,
    check_batch,
    check_candidates,
    check_ids,
    check_weights,
)
from minibrillm.checks.documents import Ids, as_documents, as_ids, check_goes_on, check_training
from minibrillm.checks.errors import Diverged, UserError
from minibrillm.checks.kinds import register
from minibrillm.checks.parameters import blocks, check_parameters, check_parts, check_prior
from minibrillm.checks.prompts import check_prompt
from minibrillm.checks.records import Range, Record
from minibrillm.checks.remedy import remedy

__all__ = [
    "Diverged",
    "Graph",
    "Ids",
    "Network",
    "Range",
    "Reader",
    "Record",
    "Settings",
    "Standing",
    "UserError",
    "as_array",
    "as_documents",
    "as_ids",
    "blocks",
    "check_batch",
    "check_candidates",
    "check_goes_on",
    "check_ids",
    "check_parameters",
    "check_parts",
    "check_prior",
    "check_prompt",
    "check_training",
    "check_weights",
    "ranges",
    "register",
    "remedy",
]
