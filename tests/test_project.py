"""The rules that hold the project together.

ruff and import-linter hold what they can; pyproject.toml sets them up, and here each of their rules
is shown to bite. What they cannot do follows.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from typer.main import get_command

import minibrillm
from minibrillm.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minibrillm"
MODULES = sorted(PACKAGE.rglob("*.py"))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def output_of(tool: str, *arguments: str, folder: Path = ROOT, source: str = "") -> str:
    """What a tool that is installed beside this Python says, its lines unbroken."""
    command = shutil.which(tool, path=sysconfig.get_path("scripts"))
    assert command, f"{tool} is not installed: pip install -e .[test]"
    done = subprocess.run(
        [command, *arguments],
        cwd=folder,
        input=source,
        env=os.environ | {"COLUMNS": "1000"},
        capture_output=True,
        encoding="utf-8",
    )
    return done.stdout + done.stderr


# ruff


def test_ruff_is_content() -> None:
    assert output_of("ruff", "check", ".") == "All checks passed!\n"


def codes(source: str, name: str = "minibrillm/example.py") -> set[str]:
    """The rules of the project that a source breaks."""
    options = ("--config", "pyproject.toml", "--output-format", "json", "--stdin-filename", name)
    found = output_of("ruff", "check", *options, "-", source=source)
    return {each["code"] for each in json.loads(found)}


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("PLW1514", 'open("a")'),
        ("PLW1514", 'from pathlib import Path\n\nPath("a").read_text()'),
        ("PLW1514", 'import tempfile\n\ntempfile.NamedTemporaryFile("w")'),
        ("S403", "import pickle"),
        ("S403", "from shelve import Shelf"),
        ("S301", "import pickle\n\npickle.loads(b)"),
        ("S302", "import marshal\n\nmarshal.loads(b)"),
        ("TID251", "import cloudpickle"),
        ("TID251", "def f():\n    import joblib"),
        ("TID251", "import torch\n\ntorch.load(p, weights_only=True)"),
        ("TID251", "from torch import save"),
        ("NPY002", "import numpy as np\n\nnp.random.seed(0)"),
        ("NPY002", "from numpy import random as r\n\nr.choice(x)"),
        ("NPY002", "from numpy.random import randint\n\nrandint(3)"),
        ("TID251", "import numpy as np\n\nnp.random.RandomState(0)"),
        ("TID251", "import random"),
        ("TID251", "from random import shuffle"),
        ("TID251", 'import importlib\n\nimportlib.import_module("minibrillm.model")'),
        ("TID251", 'import os\n\nos.popen("ls")'),
        ("TID251", 'import subprocess\n\nsubprocess.getoutput("ls")'),
        ("TID252", "from .model import BriLLM"),
        ("T201", 'print("hello")'),
        ("D100", "x = 1"),
        ("D101", '"""M."""\n\n\nclass A:\n    x = 1'),
        ("D103", '"""M."""\n\n\ndef f():\n    pass'),
        ("D103", '"""M."""\n\n\nasync def f():\n    pass'),
        ("D103", '"""M."""\n\nif X:\n\n    @njit(cache=True)\n    def f():\n        pass'),
        ("D419", '"""M."""\n\n\ndef f():\n    """  """'),
        ("RUF100", "x = 1  # noqa: E501"),
        ("PLR0915", '"""M."""\n\n\ndef f():\n    """F."""\n' + "    print()\n" * 41),
    ],
)
def test_ruff_bites(code: str, source: str) -> None:
    assert code in codes(source + "\n")


def test_ruff_wants_a_room_to_say_what_it_is_for() -> None:
    assert codes("x = 1\n", "minibrillm/room/__init__.py") == {"D104"}


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("D103", "def _f():\n    pass"),
        ("D103", 'def f():\n    """F."""\n\n    def inner():\n        pass'),
        ("D103", "from typing import overload\n\n\n@overload\ndef f(x: int) -> int: ..."),
        ("NPY002", "import numpy as np\n\nrng = np.random.default_rng(0)\nrng.shuffle(x)"),
        ("PLW1514", 'open("a", "rb")'),
        ("PLW1514", 'open("a", encoding="utf-8")'),
        ("PLR0915", "def f():\n" + "    g()\n" * 40),
    ],
)
def test_ruff_accepts(code: str, source: str) -> None:
    assert code not in codes(source + "\n")


# import-linter


@functools.cache
def complaints(folder: Path = ROOT) -> frozenset[str]:
    """Imports that break a contract, and modules that no contract knows."""
    said = output_of("lint-imports", "--no-cache", folder=folder)
    assert "Contracts: " in said, said
    return frozenset(re.findall(r"minibrillm[\w.]* -> [\w.]+|(?<=- )minibrillm[\w.]*", said))


def complaints_after(folder: Path, file: str, source: str) -> frozenset[str]:
    """What is new when a source is added to a file of the package."""
    shutil.copytree(PACKAGE, folder / "minibrillm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    with (folder / "minibrillm" / file).open("a", encoding="utf-8") as module:
        module.write(f"\n{source}\n")
    return complaints(folder) - complaints()


def test_imports_go_one_way() -> None:
    assert complaints() == set()


@pytest.mark.parametrize(
    ("file", "source", "found"),
    [
        ("graph.py", "from minibrillm.model import BriLLM", "minibrillm.model"),
        ("graph.py", "import minibrillm.model as m", "minibrillm.model"),
        ("graph.py", "from minibrillm import model", "minibrillm.model"),
        ("graph.py", "def f():\n    from minibrillm.model import BriLLM", "minibrillm.model"),
        ("graph.py", "try:\n    import minibrillm.cli\nfinally:\n    x = 1", "minibrillm.cli"),
        ("graph.py", "from minibrillm import BriLLM", "minibrillm"),
        ("reference.py", "from minibrillm.kernels import compete", "minibrillm.kernels"),
        ("kernels/passes.py", "from minibrillm.reference import compete", "minibrillm.reference"),
        ("released/read.py", "import minibrillm.rivals", "minibrillm.rivals"),
        ("judging/task.py", "import minibrillm.look", "minibrillm.look"),
        ("model.py", "import torch", "torch"),
        ("bench/__init__.py", "from torch import nn", "torch"),
        ("rivals/__init__.py", "import torch", "torch"),
        ("judging/__init__.py", "def f():\n    import matplotlib.pyplot", "matplotlib"),
        ("cli/app.py", "from ipywidgets import interact", "ipywidgets"),
    ],
)
def test_import_linter_bites(tmp_path: Path, file: str, source: str, found: str) -> None:
    importer = "minibrillm." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert f"{importer} -> {found}" in complaints_after(tmp_path, file, source)


def test_import_linter_knows_every_module(tmp_path: Path) -> None:
    assert complaints_after(tmp_path, "novelty.py", "x = 1") == {"minibrillm.novelty"}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("graph.py", "import typing\nif typing.TYPE_CHECKING:\n    import minibrillm.cli"),
        ("model.py", "import minibrillm.functional"),
        ("released/files.py", "def f():\n    import torch"),
        ("look/figures.py", "import anywidget, zhplot"),
        ("cli/app.py", "from minibrillm import __version__"),
    ],
)
def test_import_linter_accepts(tmp_path: Path, file: str, source: str) -> None:
    assert complaints_after(tmp_path, file, source) == set()


EACH_FIRST = """
import importlib, pkgutil, sys
import minibrillm

for module in list(pkgutil.walk_packages(minibrillm.__path__, "minibrillm.")):
    if not module.name.startswith("minibrillm.rivals."):  # these need PyTorch
        for name in [name for name in sys.modules if name.startswith("minibrillm")]:
            del sys.modules[name]
        importlib.import_module(module.name)
"""


def test_every_module_can_be_imported_first() -> None:
    """A room's face imports more than a file asks for: there a circle can hide."""
    done = subprocess.run(
        [sys.executable, "-c", EACH_FIRST], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr


# What ruff does not see: text without an encoding where it cannot tell a path; what unpickles


def code_of(path: Path) -> str:
    """Python source of a file, or of all code cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    return "\n".join(TransformerManager().transform_cell("".join(c["source"])) for c in cells)


SAYS_HOW = {"'utf-8'", "'rb'", "'rb+'", "'wb'", "'ab'"}


def unsafe_calls(source: str) -> Iterator[str]:
    """Text without an encoding, PyTorch's files read for more than tensors, NumPy's with pickle."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call):
            name = ast.unparse(call.func)
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            opens = re.search(r"\.(read_text|write_text|fdopen)$|\bopen$", name)
            text = (opens and name != "os.open") or given.get("text") == "True"
            if text and SAYS_HOW.isdisjoint([*map(ast.unparse, call.args), *given.values()]):
                yield f"line {call.lineno}: {name} without encoding"
            if name == "torch.load" and given.get("weights_only") != "True":
                yield f"line {call.lineno}: {name} of more than tensors"
            if given.get("allow_pickle", "False") != "False":
                yield f"line {call.lineno}: {name} with pickle"


def test_no_call_is_unsafe() -> None:
    sources = [
        path
        for folder in ("minibrillm", "tests", "notebooks")
        for pattern in ("*.py", "*.ipynb")
        for path in (ROOT / folder).rglob(pattern)
        if ".ipynb_checkpoints" not in path.parts
    ]
    found = {label(path): list(unsafe_calls(code_of(path))) for path in sources}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("p.read_text()", True),
        ("p.read_text(encoding=None)", True),
        ("(a / b).write_text(t)", True),
        ("files('minibrillm').joinpath('x').open()", True),
        ("open(p, mode)", True),
        ("open(p, encoding=None)", True),
        ("p.open('w')", True),
        ("p.open(mode)", True),
        ("gzip.open(p, 'rt')", True),
        ("os.fdopen(n, 'w')", True),
        ("subprocess.run(c, text=True)", True),
        ("torch.load(p)", True),
        ("torch.load(p, weights_only=False)", True),
        ("torch.load(p, weights_only=safe)", True),
        ("np.load(p, allow_pickle=True)", True),
        ("p.read_text('utf-8')", False),
        ("p.write_text(t, encoding='utf-8')", False),
        ("p.open('rb')", False),
        ("p.open('w', encoding='utf-8')", False),
        ("os.open(p, os.O_RDONLY)", False),
        ("subprocess.run(c, text=True, encoding='utf-8')", False),
        ("subprocess.run(c)", False),
        ("torch.load(p, mmap=True, weights_only=True)", False),
        ("np.load(p, allow_pickle=False)", False),
        ("np.load(p)", False),
    ],
)
def test_which_calls_are_unsafe(call: str, wrong: bool) -> None:
    assert len(list(unsafe_calls(call))) == wrong


# Size


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_evening_is_an_evening() -> None:
    assert sum(lines_of(path) for path in PACKAGE.glob("*.py")) <= 1500


def test_no_file_is_long() -> None:
    assert {label(path): n for path in MODULES if (n := lines_of(path)) > 400} == {}


# Functions of more than 60 lines, by room (or file of the evening) and name: one idea each.
LONG_FUNCTIONS = {"cli.train", "released.read_released"}


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(PACKAGE).parts[0].removesuffix('.py')}.{node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    }
    assert long == LONG_FUNCTIONS


# Files that must agree


def test_environment_equals_pyproject() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    needed = [
        re.sub(r"^matplotlib\b", "matplotlib-base", requirement)  # without Qt
        for requirement in project["dependencies"] + project["optional-dependencies"]["test"]
    ]
    by_pip = [r for r in needed if r.startswith("zhplot")]  # conda-forge does not have it
    by_conda = [r for r in needed if r not in by_pip]
    assert yaml.safe_load(text_of("environment.yml")) == {
        "name": project["name"],
        "channels": ["conda-forge"],
        "dependencies": [
            f"python{project['requires-python']}",
            "pip",
            *by_conda,
            {"pip": [*by_pip, "-e ."]},
        ],
    }


def test_one_version_number() -> None:
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    cited = yaml.safe_load(text_of("CITATION.cff"))
    assert minibrillm.__version__ == version
    assert cited["version"] == version
    assert f"\n## [{version}] - {cited['date-released']}\n" in text_of("CHANGELOG.md")


def test_citation_names_the_paper() -> None:
    cited = yaml.safe_load(text_of("CITATION.cff"))
    required = {"cff-version", "message", "title", "authors", "version", "date-released", "license"}
    assert required <= cited.keys()
    (paper,) = cited["references"]
    assert "2503.11299" in paper["url"]
    assert [a["family-names"] for a in paper["authors"]] == ["Zhao", "Wu", "Yang", "Zou", "Hong"]


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text_of("README.md"))
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_of_the_readme_exist() -> None:
    spans = "\n".join(re.findall(r"`[^`]+`", text_of("README.md")))
    commands = set(re.findall(r"(?<!from )minibrillm ([a-z][a-z-]+)\b", spans))
    assert commands
    assert commands <= get_command(app).commands.keys()


def test_imports_of_the_readme_exist() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", text_of("README.md"), re.DOTALL)
    for node in ast.parse(example).body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_commands_of_continuous_integration_stand_in_the_readme() -> None:
    (steps,) = re.findall(r"(?m)^for step in (.*); do$", text_of(".ci/run"))
    for step in steps.split():
        assert f"<!-- {step} -->\n```sh\n" in text_of("README.md")


# Which files there are


def test_every_room_has_a_face() -> None:
    rooms = {path.parent for path in MODULES}
    assert [label(room) for room in rooms if not (room / "__init__.py").exists()] == []


def git(*command: str) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, encoding="utf-8")
    return done.stdout.splitlines()


def test_no_file_of_the_package_is_ignored() -> None:
    """Git would not carry it, and a wheel would not contain it."""
    assert git("check-ignore", "--no-index", *map(label, MODULES)) == []


def test_files_at_the_top() -> None:
    assert {name.split("/")[0] for name in git("ls-files")} == {
        ".ci",
        ".gitignore",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "README.md",
        "data",
        "environment.yml",
        "minibrillm",
        "notebooks",
        "pyproject.toml",
        "tests",
    }
