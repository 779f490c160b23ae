"""The face of the package: what a user finds behind ``minibrillm.``"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import minibrillm

# What the Tab key offers in a notebook, when all rooms have been imported.
TAB = """
import importlib, json, pkgutil, sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
import minibrillm

for module in pkgutil.iter_modules(minibrillm.__path__, "minibrillm."):
    importlib.import_module(module.name)
shell = InteractiveShell(user_ns={"minibrillm": minibrillm})
shell.Completer.use_jedi = sys.argv[1] == "jedi"
typed = "minibrillm."
with provisionalcompleter():
    found = [each.text.removeprefix(".") for each in shell.Completer.completions(typed, len(typed))]
print(json.dumps(found))
"""


@pytest.mark.parametrize("way", ["jedi", "plain"])
def test_completion_offers_the_public_names_and_nothing_else(way: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAB, way],
        env=os.environ | {"IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    offered = json.loads(done.stdout.splitlines()[-1])
    public = [name for name in minibrillm.__all__ if not name.startswith("_")]
    assert sorted(offered) == sorted(public)


def test_every_public_name_is_there() -> None:
    assert [name for name in minibrillm.__all__ if not hasattr(minibrillm, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        minibrillm.nonsense  # noqa: B018
