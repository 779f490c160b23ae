"""Every section keeps its promises, the command shows and writes them; no test looks at a time."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Command

from minibrillm.bench import KEYS, SECTIONS, Bench, Sizes, generation, memory, start, training
from minibrillm.bench.process import run_python
from minibrillm.checks import UserError
from minibrillm.model import BriLLM

TINY = Sizes(
    repeats=2,
    gemm=32,
    copied_mb=1,
    letters=3_000,
    batch=(4, 8),
    numpy_streams=2,
    per_step_streams=2,
    d_letters=4,
    chinese=3_000,
    n_chinese=100,
    d_chinese=(4,),
    chinese_batch=(2, 8),
    contexts=(10, 50),
    generated=3,
    decoded=2,
    positions=64,
    lengths=(4, 8, 16, 32),
    degrees=(2, 4, 8, 16),
    widths=(2, 3, 4, 5),
    vocabularies=(16, 24, 32, 48),
    texts=("ab × 2000", "idioms, 2 kB"),
    text_minutes=0.01,
    memory=(50, 4, 4),
    cold_starts=1,
    warm_starts=1,
)


class FakeTwin:
    """Stands in for `minibrillm.rivals`, with the answers of the model itself."""

    error = 0.0

    def __init__(self, model: BriLLM, layout: str, compiled: bool = False) -> None:
        assert layout in ("per_step", "grouped")
        if compiled:
            raise UserError("torch.compile does not run here")
        self.model = model

    def __call__(self, tokens: np.ndarray) -> np.float64:
        return np.float64(self.model.loss(tokens) + self.error)


class FakeTwinTrainer:
    def __init__(self, twin: FakeTwin, config: object) -> None:
        self.twin = twin

    def step(self, tokens: np.ndarray, rate: float) -> float:
        assert rate > 0
        return float(self.twin(tokens))


class FakeDecoder:
    def __init__(self, model: BriLLM) -> None:
        self.model, self.state = model, None

    def read(self, tokens: np.ndarray) -> None:
        self.state = self.model.read(tokens)

    def step(self, token: int) -> np.ndarray:
        self.state = self.model.read(np.array([token]), self.state)
        return self.model.next_logits(self.state)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """PyTorch's part without PyTorch."""
    fake = SimpleNamespace(
        Twin=FakeTwin,
        TwinTrainer=FakeTwinTrainer,
        PerStepDecoder=FakeDecoder,
        set_threads=lambda count: None,
    )
    for section in (generation, training):
        monkeypatch.setattr(section, "rivals", lambda bench: fake)
    return fake


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, minibrillm: Command
) -> Callable[..., tuple[int, str, str]]:
    """``minibrillm bench`` with tiny sizes, in this process: exit code, stdout, stderr."""
    monkeypatch.setattr("minibrillm.bench.FULL", TINY)
    monkeypatch.setattr("minibrillm.bench.QUICK", TINY)

    def command(*arguments: object) -> tuple[int, str, str]:
        result = minibrillm("bench", *arguments)
        return result.code, result.out, result.err

    return command


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, ...]]]:
    """Processes that the section ``start`` would start; nothing is compiled for it."""
    started: list[tuple[str, ...]] = []

    def run(*arguments: str, **environment: str) -> str:
        cache = environment.get("NUMBA_CACHE_DIR")
        if cache is not None:
            state = "warm" if Path(cache).exists() else "cold"
            Path(cache).mkdir(exist_ok=True)
            assert Path(arguments[3], "checkpoints").is_dir()
            started.append((state, *arguments[1:3]))
        elif "import json" in arguments[1]:
            return json.dumps({"parameter_bytes": 100, "before": 10, "peak": 510})
        else:
            started.append(("", arguments[1]))
        return ""

    for section in (memory, start):
        monkeypatch.setattr(section, "run_python", run)
    yield started


def test_every_section_and_every_key(
    bench: Callable[..., tuple[int, str, str]],
    torch: SimpleNamespace,
    processes: list[tuple[str, ...]],
) -> None:
    code, out, err = bench("--quick", "--json", "all.json")
    assert (code, err) == (0, "")
    titles = [line for line in out.splitlines() if line.startswith("== ")]
    assert len(titles) == len(SECTIONS) - 1 == 6  # texts only on request
    found: dict[str, Any] = json.loads(Path("all.json").read_text(encoding="utf-8"))
    for name, value in found.items():
        assert value is None or isinstance(value, bool | int | float | str), name
        if isinstance(value, float):
            assert math.isfinite(value), name
    sized = {"share_of_sgemm_zh4", "speedup_over_grouped_zh4", "generation_slowdown_50"}
    assert sized <= found.keys()
    absent = {k for k in KEYS if k.endswith(("zh16", "zh32", "100k"))}
    absent |= {"speedup_over_compiled", "speedup_over_compiled_released"}
    if found["threads"] == 1:
        absent.add("speedup_two_threads")
    for key in KEYS:
        assert (found[key] is None) == (key in absent), key
        assert (f"{key}_why" in found) == (key in absent), key
    assert found["speedup_over_compiled_why"] == "torch.compile does not run here"
    assert "not available: the same, torch.compile: torch.compile does not run here" in out
    assert found["peak_bytes_over_parameter_bytes"] == 5.0
    for axis in ("sequence_length", "out_degree", "d", "V"):
        assert f"growth_{axis}_exponent" in found
    for key in ("quick", "machine", "cores", "threads", "python", "text_letters", "text_chinese"):
        assert found[key] is not None
        assert str(found[key]) in out
    generate = ("minibrillm", "generate")
    assert processes == [
        ("cold", *generate),
        *[("warm", *generate), ("", "import minibrillm.model")] * 2,
    ]


def test_one_section_on_given_texts(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    letters, chinese = tmp_path / "letters.txt", tmp_path / "chinese.txt"
    letters.write_text("the cat sat on the mat. " * 40, encoding="utf-8")
    chinese.write_text("我爱妈妈。妈妈爱我。" * 40, encoding="utf-8")
    code, out, err = bench(
        "--section", "limit", "--text", letters, "--chinese", chinese, "--json", "limit.json"
    )
    assert (code, err) == (0, "")
    assert out.count("\n== ") == 1
    found = json.loads(Path("limit.json").read_text(encoding="utf-8"))
    assert found["text_letters"] == "letters.txt: 960 characters"
    assert found["text_chinese"] == "chinese.txt: 400 characters"
    # mini: V = 12 with <unk>, d = 4, 4 × 8 positions; every column costs 6 d².
    assert found["operations_per_step"] == 6 * 4**2 * 32 * (12 + 1)
    assert found["operations_per_step_zh4"] == 6 * 4**2 * 16 * (5 + 1)
    assert found["share_of_sgemm"] > 0
    assert found["cold_start_s"] is None


def test_small_texts_on_request(bench: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = bench("--section", "texts", "--json", "texts.json")
    assert (code, err) == (0, "")
    assert out.count("\n== ") == 1
    found = json.loads(Path("texts.json").read_text(encoding="utf-8"))
    assert found["texts"] == 2
    leads = [found[f"lead, {kind}"] for kind in TINY.texts]
    assert found["texts_ahead"] == sum(lead > 0 for lead in leads)
    assert found["texts_worst_lead"] == min(leads) > -1
    for kind, lead in zip(TINY.texts, leads, strict=True):
        (row,) = (line for line in out.splitlines() if line.startswith(kind))
        assert f"{lead:+.4f}" in row
        ahead = found[f"verdict, {kind}"].startswith("BriLLM is ahead")
        assert ahead == (lead >= 0.001)


def test_without_torch(
    bench: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sections = ("--section", "generation", "--section", "training")
    code, out, err = bench(*sections, "--json", "a.json")
    assert (code, err) == (0, "")
    assert out.index("== training") < out.index("== generation")
    found = json.loads(Path("a.json").read_text(encoding="utf-8"))
    for peer in ("grouped", "compiled", "per_step"):
        assert found[f"speedup_over_{peer}"] is None
        assert found[f"speedup_over_{peer}_why"] == "PyTorch is not installed"
    assert found["generation_slowdown_50"] > 0
    assert "not available: PyTorch at context 10: PyTorch is not installed" in out


def test_another_loss_is_an_error(
    bench: Callable[..., tuple[int, str, str]],
    torch: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeTwin, "error", 0.01)
    code, _, err = bench("--section", "training")
    assert code == 2
    assert err.startswith("error: the loss of PyTorch")
    assert "nothing to compare" in err


def test_memory_is_measured_in_a_process() -> None:
    section = memory.memory(Bench(TINY))
    assert section.figures["parameter_bytes"] == 4 * (201 * 20 + 50 * 4 + 4 + 1)
    if memory.peak_memory() is not None:
        assert section.figures["peak_bytes"] >= 0


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(UserError, match="failed: ZeroDivisionError"):
        run_python("-c", "1 / 0")
    with pytest.raises(UserError, match="exit code 3"):
        run_python("-c", "raise SystemExit(3)")


def test_help_names_every_section(bench: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = bench("--help")
    assert code == 0
    for name in (*SECTIONS, "--quick", "--json", "--text", "--chinese"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--section", "limits"), "there is no section 'limits'"),
        (("--text", "nowhere.txt"), "there is no file nowhere.txt"),
        (("--chinese", "nowhere.txt"), "there is no file nowhere.txt"),
        (("--json", "no/folder.json"), "cannot write"),
        (("--json", "."), "cannot write"),
    ],
    ids=str,
)
def test_mistakes(
    bench: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
