"""The rules that hold the project together, each shown to fail on an example that breaks it.

A rule is a function of text (of a source or a settings file) that returns the list of what is
wrong, so that a bad example can be a string in this file.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minibrillm"

# Ground floor first: a module imports only modules that stand before it.
IMPORT_ORDER = (
    "functional",
    "config",
    "presets",
    "tokenizer",
    "corpus",
    "small_texts",
    "ngram",
    "graph",
    "parameters",
    "reference",
    "kernels",
    "generation",
    "model",
    "parity",
    "optim",
    "checkpoint",
    "evaluation",
    "training",
    "released",
    "inspection",
    "plotting",
    "widgets",
    "checks",
    "rivals",
    "peers",
    "comparison",
    "ablation",
    "benchmark",
    "cli",
)
DRAWING_MODULES = {"plotting", "widgets"}
TORCH_MODULES = {"rivals", "peers", "released"}
DRAWING_LIBRARIES = {"matplotlib", "mpl_toolkits", "ipywidgets", "anywidget", "zhplot"}


def package_modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """``minibrillm/graph.py`` is ``graph``; a package in the package goes by its folder's name."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def notebook_code(text: str) -> str:
    """The code cells of a notebook as one Python source, without shell and magic commands."""
    cells = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.lstrip().startswith("%%"):
            # A line that begins with "% " or "!=" continues an expression: it is no magic.
            magic = r"(?m)^([ \t]*)([%!]\w.*|\?{1,2}[\w.]+|[\w.]+\?{1,2})$"
            cells.append(re.sub(magic, r"\1pass", source))
    return "\n".join(cells)


def all_sources() -> list[Path]:
    found = [
        path
        for folder in (PACKAGE, ROOT / "tests", ROOT / "notebooks")
        for pattern in ("*.py", "*.ipynb")
        for path in folder.rglob(pattern)
        if ".ipynb_checkpoints" not in path.parts
    ]
    return sorted(found)


def source_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return notebook_code(text) if path.suffix == ".ipynb" else text


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or a chain of attributes; what is no name becomes ``?``."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


# 1. environment.yml is pyproject.toml in conda's words

CONDA_NAMES = {"matplotlib": "matplotlib-base"}
NOT_ON_CONDA_FORGE = {"zhplot"}


def parse_requirement(text: str) -> tuple[str, frozenset[str]]:
    """Name and version bounds of ``name>=1,<2``."""
    match = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*([^;\[\]]*?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is no plain requirement: the comparison cannot read it")
    bounds = frozenset(bound.replace(" ", "") for bound in match[2].split(",") if bound.strip())
    return match[1].lower().replace("_", "-"), bounds


def environment_differences(environment_text: str, pyproject_text: str) -> list[str]:
    environment = yaml.safe_load(environment_text)
    project = tomllib.loads(pyproject_text)["project"]
    wrong = []
    if environment.get("name") != project["name"]:
        wrong.append(f"the name is {environment.get('name')!r}")
    if environment.get("channels") != ["conda-forge"]:
        wrong.append(f"the channels are {environment.get('channels')!r}")

    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    by_pip = [
        e for entry in environment["dependencies"] if isinstance(entry, dict) for e in entry["pip"]
    ]
    if not by_pip or by_pip[-1] != "-e .":
        wrong.append("the last pip entry is not '-e .'")
    if "pip" not in plain:
        wrong.append("pip itself is not asked for")

    wanted = {"python": parse_requirement(f"python{project['requires-python']}")[1]}
    wanted_by_pip = {}
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        name, bounds = parse_requirement(text)
        if name in NOT_ON_CONDA_FORGE:
            wanted_by_pip[name] = bounds
        else:
            wanted[CONDA_NAMES.get(name, name)] = bounds

    for where, there, needed in (
        ("conda", [e for e in plain if e != "pip"], wanted),
        ("pip", [e for e in by_pip if e != "-e ."], wanted_by_pip),
    ):
        found = dict(parse_requirement(text) for text in there)
        if len(found) != len(there):
            wrong.append(f"{where}: a package is named twice")
        for name in sorted(found.keys() | needed.keys()):
            if found.get(name) != needed.get(name):
                have, want = (_bounds(side.get(name)) for side in (found, needed))
                wrong.append(f"{where}: {name} is {have}, pyproject.toml says {want}")
    return wrong


def _bounds(bounds: frozenset[str] | None) -> str:
    return "absent" if bounds is None else ",".join(sorted(bounds)) or "any version"


def test_environment_equals_pyproject() -> None:
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert environment_differences(environment, pyproject) == []


GOOD_PYPROJECT = """
[project]
name = "minibrillm"
requires-python = ">=3.11,<3.15"
dependencies = ["numpy>=2.0", "matplotlib>=3.9.2", "zhplot>=1.0"]
[project.optional-dependencies]
test = ["pytest>=8.2"]
torch = ["torch>=2.4"]
"""
GOOD_ENVIRONMENT = """
name: minibrillm
channels: [conda-forge]
dependencies:
  - python >=3.11, <3.15
  - pip
  - numpy>=2.0
  - matplotlib-base>=3.9.2
  - pytest>=8.2
  - pip:
      - zhplot>=1.0
      - -e .
"""


def test_environment_rule_accepts_the_good_example() -> None:
    assert environment_differences(GOOD_ENVIRONMENT, GOOD_PYPROJECT) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("numpy>=2.0", "numpy>=2.1", "numpy"),
        ("numpy>=2.0", "numpy", "numpy"),
        ("  - numpy>=2.0\n", "", "numpy is absent"),
        ("  - pytest>=8.2\n", "", "pytest is absent"),
        ("pytest>=8.2", "pytest>=8.2\n  - torch>=2.4", "torch"),
        ("matplotlib-base", "matplotlib", "matplotlib-base is absent"),
        ("<3.15", "<3.14", "python"),
        ("      - zhplot>=1.0\n", "", "zhplot is absent"),
        ("pytest>=8.2", "pytest>=8.2\n  - zhplot>=1.0", "conda: zhplot"),
        ("pytest>=8.2", "pytest>=8.2\n  - numpy>=2.0", "twice"),
        ("      - -e .\n", "", "-e ."),
        ("  - pip\n", "", "pip itself"),
        ("conda-forge", "defaults", "channels"),
        ("name: minibrillm", "name: brillm", "name"),
    ],
)
def test_environment_rule_can_fail(old: str, new: str, said: str) -> None:
    broken = GOOD_ENVIRONMENT.replace(old, new)
    assert broken != GOOD_ENVIRONMENT
    assert any(said in line for line in environment_differences(broken, GOOD_PYPROJECT))


# 2. A text file is opened with encoding="utf-8"

_MODE = re.compile(r"[rwxabt+]+")
_MODE_OR_NAME = {"gzip", "bz2", "lzma"}  # open(name, mode="rb")
_NO_TEXT = {"os", "tarfile", "zipfile", "webbrowser", "wave", "Image"}  # no text mode there
_SUBPROCESS = {"run", "Popen", "call", "check_call", "check_output"}
_TEXT_MODE_FLAGS = {"text", "universal_newlines", "errors"}


def _opens_text(mode: ast.expr | None, default: str) -> bool:
    """Whether the mode is not certain to be binary."""
    if mode is None:
        return "b" not in default
    return not (
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" in mode.value
    )


def _argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    return call.args[place] if place < len(call.args) else None


def _is_set(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and not value.value)


def _lacks_encoding(call: ast.Call) -> bool:
    owner, _, name = dotted(call.func).rpartition(".")
    module = owner.rpartition(".")[2]
    if name == "read_text":
        return not _is_set(_argument(call, 0, "encoding"))
    if name == "write_text":
        return not _is_set(_argument(call, 1, "encoding"))
    if name in {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}:
        place = 1 if name.startswith("Spooled") else 0
        return _opens_text(_argument(call, place, "mode"), "w+b") and not _is_set(
            _argument(call, place + 2, "encoding")
        )
    if name == "TextIOWrapper":
        return not _is_set(_argument(call, 1, "encoding"))
    if name in {"getoutput", "getstatusoutput"}:
        return not _is_set(_argument(call, 1, "encoding"))
    if name == "popen" and module == "os":
        return True  # os.popen cannot be told an encoding
    if name in _SUBPROCESS:
        texts = any(k.arg in _TEXT_MODE_FLAGS and _is_set(k.value) for k in call.keywords)
        return texts and not any(k.arg == "encoding" and _is_set(k.value) for k in call.keywords)
    if name not in {"open", "fdopen"} or (name == "open" and module in _NO_TEXT):
        return False
    if module in _MODE_OR_NAME:
        return _opens_text(_argument(call, 1, "mode"), "rb") and not _is_set(
            _argument(call, 3, "encoding")
        )
    if not owner or module in {"io", "codecs"} or name == "fdopen":
        place = 2 if module == "codecs" else 3
        return _opens_text(_argument(call, 1, "mode"), "r") and not _is_set(
            _argument(call, place, "encoding")
        )
    # What is left is taken for Path.open(mode, buffering, encoding).
    return _opens_text(_argument(call, 0, "mode"), "r") and not _is_set(
        _argument(call, 2, "encoding")
    )


def calls_without_encoding(source: str) -> list[str]:
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [f"line {c.lineno}: {ast.unparse(c)}" for c in calls if _lacks_encoding(c)]


@pytest.mark.parametrize("path", all_sources(), ids=label)
def test_text_files_are_opened_with_an_encoding(path: Path) -> None:
    assert calls_without_encoding(source_of(path)) == []


@pytest.mark.parametrize(
    "call",
    [
        "open(p)",
        "open(p, 'w')",
        "open(p, mode='a')",
        "open(p, mode)",
        "open(p, 'r', encoding=None)",
        "io.open(p)",
        "Path(p).open()",
        "p.open('w')",
        "(a / b).open(mode='r+')",
        "p.read_text()",
        "p.read_text(errors='replace')",
        "(a / b).write_text(t)",
        "files('minibrillm').joinpath('x').read_text()",
        "subprocess.run(c, text=True)",
        "run(c, universal_newlines=True)",
        "subprocess.Popen(c, text=True, stdout=PIPE)",
        "check_output(c, errors='replace')",
        "subprocess.getoutput(c)",
        "os.popen(c)",
        "os.fdopen(n, 'w')",
        "gzip.open(p, 'rt')",
        "tempfile.NamedTemporaryFile('w')",
        "io.TextIOWrapper(b)",
        "def f():\n    with open(p) as g: pass",
    ],
)
def test_encoding_rule_can_fail(call: str) -> None:
    assert len(calls_without_encoding(call)) == 1


@pytest.mark.parametrize(
    "call",
    [
        "open(p, encoding='utf-8')",
        "open(p, 'rb')",
        "open(p, mode='wb')",
        "open(p, 'w', -1, 'utf-8')",
        "p.open('rb')",
        "p.open('w', encoding='utf-8')",
        "p.open('w', -1, 'utf-8')",
        "p.read_text('utf-8')",
        "p.read_text(encoding='utf-8')",
        "p.write_text(t, 'utf-8')",
        "p.write_bytes(b)",
        "subprocess.run(c)",
        "subprocess.run(c, text=True, encoding='utf-8')",
        "subprocess.run(c, text=False)",
        "gzip.open(p)",
        "gzip.open(p, 'rt', encoding='utf-8')",
        "os.open(p, os.O_RDONLY)",
        "webbrowser.open(u)",
        "tempfile.NamedTemporaryFile()",
        "tempfile.NamedTemporaryFile('w', encoding='utf-8')",
        "model.run(x)",
        "'open(p)'",
    ],
)
def test_encoding_rule_accepts(call: str) -> None:
    assert calls_without_encoding(call) == []


def test_notebook_code_is_read() -> None:
    lines = ["%matplotlib inline", "if x:", "    !ls", "np.dot?", "y = (a", "    % b)", "open(p)"]
    cells = [
        {"cell_type": "markdown", "source": ["open(p)"]},
        {"cell_type": "code", "source": [line + "\n" for line in lines]},
        {"cell_type": "code", "source": "%%bash\necho hello world"},
    ]
    code = notebook_code(json.dumps({"cells": cells}))
    assert calls_without_encoding(code) == ["line 7: open(p)"]


# 3. Imports go one way


def imported_names(source: str, package: str = "minibrillm") -> list[str]:
    """Dotted names of everything that a source imports, wherever the import stands.

    ``from a.b import c`` gives ``a.b.c`` (c may be a module), ``import a.b`` gives ``a.b``;
    attributes of a bare ``import minibrillm`` count, and so do constant `import_module` calls.
    What stands under ``if TYPE_CHECKING:`` is never executed and is left out.
    """
    found: list[str] = []
    tree = ast.parse(source)
    roots: set[str] = set()
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(alias.name)
                if alias.name.split(".")[0] == "minibrillm":
                    whole = alias.asname is None or alias.name == "minibrillm"
                    roots |= {alias.asname or "minibrillm"} if whole else set()
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{prefix}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            name = dotted(node.func).rpartition(".")[2]
            first = node.args[0]
            if name in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                found.append(re.sub(r"^\.", f"{package}.", str(first.value)))
    for node in _executed(tree):
        if isinstance(node, ast.Attribute) and dotted(node.value) in roots:
            found.append(f"minibrillm.{node.attr}")
    return found


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a tree except the bodies of ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and dotted(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _executed(other)
        else:
            yield child
            yield from _executed(child)


def allowed_imports(module: str) -> set[str]:
    """Modules of the package that a module may import."""
    order = list(IMPORT_ORDER)
    if module == "errors":
        return set()
    if module == "__main__":
        return {"errors", *order}
    if module == "__init__":
        # It runs whatever part is imported, so it must not draw, need torch or know the command.
        return {"errors", *order} - DRAWING_MODULES - TORCH_MODULES - {"benchmark", "cli"}
    if module in {"reference", "kernels"}:
        return {"errors", "functional"}
    return {"errors", *order[: order.index(module)]}


def import_violations(module: str, source: str, package: str = "minibrillm") -> list[str]:
    if module not in {"errors", "__init__", "__main__", *IMPORT_ORDER}:
        return [f"{module} has no place in IMPORT_ORDER"]
    wrong = []
    allowed = allowed_imports(module)
    for name in imported_names(source, package):
        top, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if top == "minibrillm":
            is_module = part in {"errors", *IMPORT_ORDER}
            is_dunder = part.startswith("__") and part != "__main__"
            # A bare import loads only __init__; what is then taken from it is looked at as well.
            if part in allowed or is_dunder or part in {"", module}:
                continue
            why = "which stands later" if is_module else "import it from its own module"
            wrong.append(f"{module} imports {name}: {why}")
        elif top in DRAWING_LIBRARIES and module not in DRAWING_MODULES:
            wrong.append(f"{module} imports {name}: only {sorted(DRAWING_MODULES)} draw")
        elif top == "torch" and module not in TORCH_MODULES:
            wrong.append(f"{module} imports {name}: only {sorted(TORCH_MODULES)} know torch")
    return wrong


@pytest.mark.parametrize("path", package_modules(), ids=label)
def test_imports_go_one_way(path: Path) -> None:
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    assert import_violations(module_name(path), source_of(path), package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graph", "from minibrillm.model import BriLLM"),
        ("graph", "import minibrillm.model"),
        ("graph", "import minibrillm.model as m"),
        ("graph", "from minibrillm import model"),
        ("graph", "from minibrillm import BriLLM"),
        ("graph", "from minibrillm import *"),
        ("graph", "import minibrillm\nminibrillm.model.BriLLM()"),
        ("graph", "import minibrillm as mb\nmb.model.BriLLM()"),
        ("graph", "from .model import BriLLM"),
        ("graph", "from . import model"),
        ("graph", "import importlib\nimportlib.import_module('minibrillm.model')"),
        ("graph", "from importlib import import_module\nimport_module('.model', 'minibrillm')"),
        ("graph", "def f():\n    from minibrillm.model import BriLLM"),
        ("graph", "class A:\n    def f(self):\n        import minibrillm.model"),
        ("graph", "try:\n    import minibrillm.model\nexcept ImportError:\n    pass"),
        ("graph", "if not TYPE_CHECKING:\n    import minibrillm.model"),
        ("graph", "if TYPE_CHECKING:\n    pass\nelse:\n    import minibrillm.model"),
        ("graph", "if FAST:\n    import minibrillm.model"),
        ("reference", "from minibrillm.graph import TokenGraph"),
        ("reference", "from minibrillm.config import ModelConfig"),
        ("kernels", "from minibrillm.reference import compete"),
        ("kernels", "from minibrillm.parameters import Parameters"),
        ("errors", "from minibrillm.functional import gelu"),
        ("inspection", "import matplotlib.pyplot as plt"),
        ("inspection", "from minibrillm.look import draw"),
        ("evaluation", "def f():\n    from ipywidgets import interact"),
        ("cli", "import anywidget"),
        ("model", "import zhplot"),
        ("model", "import torch"),
        ("benchmark", "from torch import nn"),
        ("benchmark", "from minibrillm.cli import main"),
        ("__init__", "from minibrillm.cli import main"),
        ("__init__", "from minibrillm.look import draw"),
        ("__init__", "from minibrillm.rivals.twins import GPT"),
        ("__init__", "from minibrillm.released import read_released"),
        ("training", "from minibrillm.released import read_released"),
        ("novelty", "import numpy"),
    ],
)
def test_import_rule_can_fail(module: str, source: str) -> None:
    assert len(import_violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graph", "import numpy as np\nfrom minibrillm.ngram import BigramPrior"),
        (
            "graph",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import minibrillm.cli.app",
        ),
        ("graph", "import typing\nif typing.TYPE_CHECKING:\n    from minibrillm import model"),
        ("graph", "from minibrillm.checks import UserError"),
        ("graph", "model.forward(x)"),
        ("reference", "from minibrillm.functional import gelu"),
        ("kernels", "import numba\nfrom minibrillm.functional import gelu"),
        ("plotting", "import matplotlib\nimport zhplot"),
        ("widgets", "import anywidget\nfrom minibrillm.plotting import draw"),
        ("rivals", "def f():\n    import torch"),
        ("released", "def f():\n    import torch"),
        ("cli", "from minibrillm import __version__\nfrom minibrillm.benchmark import run"),
        ("cli", "import minibrillm\nprint(minibrillm.__version__)"),
        ("__main__", "from minibrillm.cli import main"),
        ("__init__", "from minibrillm.model import BriLLM"),
    ],
)
def test_import_rule_accepts(module: str, source: str) -> None:
    assert import_violations(module, source) == []


def test_relative_imports_of_a_package_in_the_package() -> None:
    source = "from ..model import BriLLM"
    assert import_violations("graph", source, "minibrillm.graph") != []
    assert import_violations("training", source, "minibrillm.training") == []


# 4. No pickle, no hidden random state

_PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
_GENERATORS = {"Generator", "default_rng", "SeedSequence", "BitGenerator", "MT19937"}
_GENERATORS |= {"PCG64", "PCG64DXSM", "Philox", "SFC64"}


def unsafe_uses(source: str, module: str = "") -> list[str]:
    """Pickle in any form, and random numbers that do not come from a Generator passed in.

    Only `released` may use PyTorch's files, and read nothing but tensors from them.
    """
    tree = ast.parse(source)
    wrong = []
    tensors_only = {id(c.func) for c in ast.walk(tree) if _loads_tensors_only(c)}
    full_name: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                full_name[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                full_name[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for name in imported_names(source):
        top, _, rest = name.partition(".")
        if top in _PICKLES:
            wrong.append(f"import of {name}: no pickle")
        if top == "random":
            wrong.append(f"import of {name}: pass a numpy.random.Generator")
        if name.startswith("numpy.random.") and rest.split(".")[1] not in _GENERATORS:
            wrong.append(f"import of {name}: pass a numpy.random.Generator")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = dotted(node).partition(".")
            name = f"{full_name.get(first, first)}.{rest}"
            drawn = re.fullmatch(r"numpy\.random\.(\w+)", name)
            if drawn and drawn[1] not in _GENERATORS:
                wrong.append(f"line {node.lineno}: {name} keeps global state")
            tensors = name == "torch.save" or id(node) in tensors_only
            if name in {"torch.load", "torch.save"} and not (module == "released" and tensors):
                wrong.append(f"line {node.lineno}: {name} is pickle")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and _is_set(node.value):
            wrong.append(f"line {node.value.lineno}: allow_pickle")
    return wrong


def _loads_tensors_only(call: ast.AST) -> TypeGuard[ast.Call]:
    """Whether this is a call with ``weights_only=True``."""
    return isinstance(call, ast.Call) and any(
        k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
        for k in call.keywords
    )


@pytest.mark.parametrize("path", package_modules(), ids=label)
def test_no_pickle_and_no_global_random_state(path: Path) -> None:
    assert unsafe_uses(source_of(path), module_name(path)) == []


@pytest.mark.parametrize(
    ("module", "call", "allowed"),
    [
        ("released", "torch.load(p, weights_only=True)", True),
        ("released", "torch.load(p, mmap=True, weights_only=True)", True),
        ("released", "torch.save(tensors, p)", True),
        ("released", "torch.load(p)", False),
        ("released", "torch.load(p, weights_only=False)", False),
        ("released", "torch.load(p, weights_only=safe)", False),
        ("released", "f(torch.load, weights_only=True)", False),
        ("rivals", "torch.load(p, weights_only=True)", False),
        ("rivals", "torch.save(tensors, p)", False),
        ("training", "torch.load(p, weights_only=True)", False),
    ],
)
def test_only_released_reads_tensors(module: str, call: str, allowed: bool) -> None:
    assert (unsafe_uses(f"import torch\n{call}", module) == []) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import dumps",
        "def f():\n    import cloudpickle",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import torch\ntorch.save(m, p)",
        "import numpy as np\nnp.random.seed(0)",
        "import numpy as np\nnp.random.rand(3)",
        "import numpy\nnumpy.random.shuffle(x)",
        "import numpy as np\nnp.random.RandomState(0)",
        "import numpy.random as r\nr.normal()",
        "import numpy.random\nnumpy.random.normal()",
        "from numpy import random\nrandom.choice(x)",
        "from numpy import random as r\nr.choice(x)",
        "from numpy.random import randint",
        "import random",
        "from random import shuffle",
    ],
)
def test_safety_rule_can_fail(source: str) -> None:
    assert len(unsafe_uses(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nrng = np.random.default_rng(0)\nrng.random(3)\nrng.shuffle(x)",
        "import numpy as np\ndef f(rng: np.random.Generator) -> None: ...",
        "from numpy.random import Generator, default_rng",
        "import numpy as np\nnp.load(p, allow_pickle=False)",
        "'import pickle'",
    ],
)
def test_safety_rule_accepts(source: str) -> None:
    assert unsafe_uses(source) == []


# 5. One version number


def version_differences(pyproject: str, init: str, citation: str, changelog: str) -> list[str]:
    version = tomllib.loads(pyproject)["project"]["version"]
    cited: dict[str, Any] = yaml.safe_load(citation)
    wrong = []
    in_package = re.search(r'(?m)^__version__ = "([^"]*)"', init)
    if in_package is None or in_package[1] != version:
        wrong.append(f"minibrillm.__version__ is not {version}")
    # A version such as 1.0 without quotes would be a number in YAML.
    if cited.get("version") != version:
        wrong.append(f"CITATION.cff has version {cited.get('version')!r}, not {version!r}")
    entry = re.search(rf"(?m)^## \[{re.escape(version)}\] - (\S+)$", changelog)
    if entry is None:
        wrong.append(f"CHANGELOG.md has no heading '## [{version}] - date'")
    elif entry[1] != str(cited.get("date-released")):
        wrong.append(f"CHANGELOG.md says {entry[1]}, CITATION.cff {cited.get('date-released')}")
    return wrong


def test_one_version_number() -> None:
    texts = [
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("pyproject.toml", "minibrillm/__init__.py", "CITATION.cff", "CHANGELOG.md")
    ]
    assert version_differences(*texts) == []


GOOD_VERSIONS = {
    "pyproject": '[project]\nversion = "0.1.0"\n',
    "init": '"""Words."""\n\n__version__ = "0.1.0"\n',
    "citation": "version: 0.1.0\ndate-released: 2026-11-20\n",
    "changelog": "# Changelog\n\n## [0.1.0] - 2026-11-20\n",
}


def test_version_rule_accepts_the_good_example() -> None:
    assert version_differences(**GOOD_VERSIONS) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("init", '__version__ = "0.1.1"\n', "__version__"),
        ("init", '"""Words."""\n', "__version__"),
        ("citation", "version: 0.2.0\ndate-released: 2026-11-20\n", "CITATION.cff"),
        ("citation", "title: x\ndate-released: 2026-11-20\n", "CITATION.cff"),
        ("citation", "version: 0.1.0\ndate-released: 2026-11-21\n", "2026-11-21"),
        ("changelog", "# Changelog\n\n## [0.1.0]\n", "CHANGELOG.md"),
        ("changelog", "# Changelog\n\n## [Unreleased]\n", "CHANGELOG.md"),
        ("changelog", "# Changelog\n\n## [0x1.0] - 2026-11-20\n", "CHANGELOG.md"),
    ],
)
def test_version_rule_can_fail(file: str, text: str, said: str) -> None:
    wrong = version_differences(**{**GOOD_VERSIONS, file: text})
    assert len(wrong) == 1
    assert said in wrong[0]


# 6. Everything public is explained


def without_docstring(source: str) -> list[str]:
    """Public functions and classes at the top level of a module, and the module itself."""
    tree = ast.parse(source)
    wrong = [] if ast.get_docstring(tree) else ["the module"]
    return wrong + [
        node.name
        for node in _top_level(tree.body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(dotted(d).rpartition(".")[2] == "overload" for d in node.decorator_list)
        and not ast.get_docstring(node)
    ]


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module's body, those under ``if`` and ``try`` included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            for inner in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(statement, inner, []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)


@pytest.mark.parametrize("path", package_modules(), ids=label)
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert without_docstring(source_of(path)) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(): pass", ["the module", "f"]),
        ('"""M."""\ndef f(): pass', ["f"]),
        ('"""M."""\nasync def f(): pass', ["f"]),
        ('"""M."""\nclass A: pass', ["A"]),
        ('"""M."""\n@njit(cache=True)\ndef f(): pass', ["f"]),
        ('"""M."""\ntry:\n    import x\nexcept ImportError:\n    def f(): pass', ["f"]),
        ('"""M."""\nif X:\n    pass\nelse:\n    def f(): pass', ["f"]),
        ('"""M."""\ndef f():\n    """  """', ["f"]),
        ('"""M."""\ndef f():\n    """F."""\n    def inner(): pass', []),
        ('"""M."""\ndef _f(): pass', []),
        ('"""M."""\n@overload\ndef f(): ...\ndef f():\n    """F."""', []),
    ],
)
def test_docstring_rule(source: str, found: list[str]) -> None:
    assert without_docstring(source) == found


# The citation file


def test_citation_names_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    required = {"cff-version", "message", "title", "authors", "version", "date-released", "license"}
    assert required <= cited.keys()
    (paper,) = cited["references"]
    assert "2503.11299" in paper["url"]
    assert [a["family-names"] for a in paper["authors"]] == ["Zhao", "Wu", "Yang", "Zou", "Hong"]
