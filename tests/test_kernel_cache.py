"""Compiled kernels are kept on disk until a line of any file changes that they are made of."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import minibrillm
from minibrillm.kernels import jit, path

PACKAGE = Path(minibrillm.__file__).parent
SQUARES = """
import numpy as np
from minibrillm.kernels.optimiser import _squares as kernel
lanes = np.zeros((1, 16))
kernel(np.full(3, 2.0), lanes)
found = lanes.sum()
"""
ENERGY = """
import numpy as np
from minibrillm.kernels.everyone import Everyone, energies_at_one as kernel
from minibrillm.kernels.path import Parts
none, energy = np.zeros(0, np.int64), np.zeros((1, 1))
x = Everyone(np.zeros(2, np.int64), none, np.zeros(1, np.int64), *np.zeros((2, 1, 1)), energy)
weight, bias = np.zeros((1, 1, 1)), np.ones((1, 1))
kernel(Parts(weight[:0], weight, weight[:0]), Parts(bias[:0], bias, bias[:0]), x)
found = energy[0, 0]
"""
SAY = """
hit = sum(kernel.stats.cache_hits.values()) > 0
print(f"{found:.3f}", "from the cache" if hit else "compiled")
"""


def answer(folder: Path, program: str = SQUARES) -> str:
    """What a process of its own finds with the package of that folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "nc")}
    done = subprocess.run(
        [sys.executable, "-c", program + SAY],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, its kernels compiled."""
    folder = tmp_path_factory.mktemp("package")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "minibrillm", ignore=ignored)
    assert answer(folder) == "12.000 compiled"
    return folder


def test_an_unchanged_package_starts_warm(copy: Path) -> None:
    assert answer(copy) == "12.000 from the cache"


FILES = sorted(file.name for file in (PACKAGE / "kernels").glob("*.py"))


@pytest.mark.parametrize("name", [*FILES, "../machine/squares.py"])
def test_a_line_in_any_file_makes_kernels_anew(copy: Path, name: str) -> None:
    file = copy / "minibrillm" / "kernels" / name
    before = file.read_text(encoding="utf-8")
    file.write_text(before + "# one more line\n", encoding="utf-8")
    assert answer(copy) == "12.000 compiled"
    file.write_text(before, encoding="utf-8")
    assert answer(copy) == "12.000 compiled"
    assert answer(copy) == "12.000 from the cache"


def test_an_edit_in_another_file_changes_the_very_next_result(copy: Path) -> None:
    file = copy / "minibrillm" / "kernels" / "gelu.py"
    before = file.read_text(encoding="utf-8")
    edited = before.replace("return 0.5 * math.erfc", "return 1.0 * math.erfc")
    assert edited != before
    assert answer(copy, ENERGY) == "0.841 compiled"  # gelu(1)
    assert answer(copy, ENERGY) == "0.841 from the cache"
    file.write_text(edited, encoding="utf-8")
    assert answer(copy, ENERGY) == "1.683 compiled"
    file.write_text(before, encoding="utf-8")
    assert answer(copy, ENERGY) == "0.841 compiled"


def test_numba_asks_our_locators_and_is_left_as_it_was() -> None:
    """To set its configuration while it runs is not documented, so this holds it."""
    found = path.streams_forward._cache._impl.locator
    assert isinstance(found, jit.LOCATORS)
    assert found.get_source_stamp() == jit._stamp()
    assert os.environ.get("NUMBA_CACHE_LOCATOR_CLASSES", "") == numba.config.CACHE_LOCATOR_CLASSES
