"""The other side in PyTorch, where there is one, once both agree on the numbers."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from minibrillm.bench.setting import Bench
from minibrillm.checks import UserError


class NotAvailable(Exception):
    """This cannot be measured here, and why."""


def rivals(bench: Bench) -> ModuleType:
    """`minibrillm.rivals`, on as many threads as ours; `NotAvailable` without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        raise NotAvailable("PyTorch is not installed")
    from minibrillm import rivals

    rivals.set_threads(bench.threads)
    return rivals


def agree(what: str, ours: float, theirs: float) -> None:
    """Refuse to compare the speed of two programs that do not find the same number."""
    if not abs(ours - theirs) <= 1e-4 * max(1.0, abs(ours)):
        raise UserError(f"{what} is {theirs:.6f}, ours is {ours:.6f}: nothing to compare")
