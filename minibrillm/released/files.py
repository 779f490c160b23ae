"""What reading and writing share: PyTorch, if it is there, and files of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minibrillm.checks import UserError
from minibrillm.text import read_text


def import_torch() -> Any:
    """The module ``torch``; a `UserError` that says how to install it where it is missing."""
    try:
        import torch
    except ImportError:
        raise UserError(
            "a released checkpoint is a PyTorch file, and PyTorch is missing; install it with: "
            'pip install "minibrillm[torch]"'
        ) from None
    return torch


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value
