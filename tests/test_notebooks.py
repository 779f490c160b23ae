"""The notebooks of both languages: same code, complete, and fit to be shown anywhere.

That they run is checked by nbval, in the same pytest command.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
ENGLISH = sorted((ROOT / "notebooks" / "en").glob("*.ipynb"))
ALL = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
CHINESE_CHARACTER = re.compile(r"[\u4e00-\u9fff]")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def test_there_are_notebooks_in_both_languages() -> None:
    assert ENGLISH
    chinese = sorted(p.name for p in (ROOT / "notebooks" / "zh").glob("*.ipynb"))
    assert chinese == [p.name for p in ENGLISH]


@pytest.mark.parametrize("path", ENGLISH, ids=name)
def test_both_languages_have_the_same_code(path: Path) -> None:
    english, chinese = read(path), read(ROOT / "notebooks" / "zh" / path.name)
    assert code_cells(english) == code_cells(chinese)
    kinds = [cell.cell_type for cell in english.cells]
    assert kinds == [cell.cell_type for cell in chinese.cells]
    for ours, theirs in zip(prose(english), prose(chinese), strict=True):
        assert CHINESE_CHARACTER.search(theirs), f"not translated: {theirs[:60]!r}"
        assert ours != theirs


@pytest.mark.parametrize("path", ALL, ids=name)
def test_header_and_footer(path: Path) -> None:
    cells = prose(read(path))
    wanted = {
        "en": (("Goal", "You need", "Time"), ("Summary", "Exercises", "References")),
        "zh": (("目标", "需要", "用时"), ("小结", "练习", "参考")),
    }
    header, footer = wanted[path.parent.name]
    for word in (*header, "| English | 中文 |"):
        assert word in cells[0], word
    for word in footer:
        assert word in cells[-1], word


@pytest.mark.parametrize("path", ALL, ids=name)
def test_saved_state_is_clean(path: Path) -> None:
    """Widget state makes "Invalid Notebook" on some pages; no errors, no warnings."""
    notebook = read(path)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run the notebook from top to bottom"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr" or "Warning" not in output.text


@pytest.mark.parametrize("path", ALL, ids=name)
def test_some_outputs_are_compared(path: Path) -> None:
    assert any("# NBVAL_CHECK_OUTPUT" in code for code in code_cells(read(path)))


def run_nbval(notebook: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "sample.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), str(path)],
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        check=False,
    )


def test_a_broken_cell_or_a_changed_output_fails(tmp_path: Path) -> None:
    """The safety net itself: what nbval reports must reach the exit code."""
    v4 = nbformat.v4
    good = v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(1 + 1)")
    good.execution_count = 1
    good.outputs = [v4.new_output("stream", name="stdout", text="2\n")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}

    def sample(*cells: Any) -> Any:
        return v4.new_notebook(cells=list(cells), metadata=kernel)

    assert run_nbval(sample(good), tmp_path).returncode == 0
    broken = run_nbval(sample(good, v4.new_code_cell("1 / 0")), tmp_path)
    assert broken.returncode == 1
    assert "ZeroDivisionError" in broken.stdout
    changed = v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(3)")
    changed.execution_count = 1
    changed.outputs = [v4.new_output("stream", name="stdout", text="2\n")]
    assert run_nbval(sample(changed), tmp_path).returncode == 1
