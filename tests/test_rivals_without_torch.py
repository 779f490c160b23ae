"""Without PyTorch the room of the rivals can be entered, and its files say how to install it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from minibrillm import rivals
from minibrillm.checks import UserError


def test_the_room_is_entered_without_torch() -> None:
    code = "import sys, minibrillm.rivals; print('torch' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert said.stdout == "False\n"


FILES = [f"minibrillm.rivals.{name}" for name in ("decoder", "gpt", "lstm", "recipes", "twin")]


@pytest.mark.parametrize("file", [*FILES, "minibrillm.rivals.training"])
def test_every_file_says_how_to_install_torch(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    for name in [name for name in sys.modules if name.startswith("minibrillm.rivals.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(UserError, match=r'pip install "minibrillm\[torch\]"'):
        importlib.import_module(file)
    with pytest.raises(UserError, match=r'pip install "minibrillm\[torch\]"'):
        rivals.GPT(9, object())
