"""The benchmark counts right, compares in turns and keeps its promises; no test looks at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Command

from minibrillm.bench import benchmark
from minibrillm.bench.benchmark import (
    KEYS,
    SECTIONS,
    Bench,
    Section,
    Sizes,
    Spread,
    alternate,
    complete,
    count_work,
    fit_exponent,
    regular_graph,
    spread,
    stand_in,
    thread_counts,
    walk,
)
from minibrillm.checks import UserError
from minibrillm.config import ModelConfig
from minibrillm.graph import TokenGraph
from minibrillm.model import BriLLM
from minibrillm.text import CharacterTokenizer

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


# ---------------------------------------------------------------------------------- pure functions


@pytest.fixture
def triangle() -> TokenGraph:
    """0→1, 0→2, 1→0; node 2 leads nowhere."""
    return TokenGraph.from_ids([np.array([0, 1, 0]), np.array([0, 2])], 3, prior=False)


def test_work_of_shared_edges_by_hand(triangle: TokenGraph) -> None:
    config = ModelConfig.preset("paper", d_node=2)
    work = count_work(triangle, config, np.array([[0, 1, 0, 2]]))
    # Sources 0, 1, 0: 2, 1, 2 private edges and the class of all others, 3 + 2 + 3 columns.
    # A column: 2·2² forward, 2·2² for the signal, 2·2² for the matrix = 24; 3 edges on the path.
    assert work.competition == 24 * 8
    assert work.path == 24 * 3
    assert work.operations == 24 * 11
    # 4 slots of 2² + 2 parameters; 11 float32 move for each.
    assert work.optimiser == 4 * 6 * 11 * 4


def test_work_of_three_part_edges_by_hand(triangle: TokenGraph) -> None:
    config = ModelConfig(d_node=2, prior="none", start="ones", memory="chain")
    work = count_work(triangle, config, np.array([[0, 1], [2, 0]]))
    assert (work.path, work.competition) == (24 * 2, 24 * 2 * 3)  # all V = 3 compete
    assert work.optimiser == ((3 + 3 + 3) * 6 + 1) * 44  # axons, dendrites, synapses, the bound


def test_work_scales_to_the_positions_of_a_batch(triangle: TokenGraph) -> None:
    config, tokens = ModelConfig.preset("released", d_node=3), np.array([[0, 1, 0, 2, 1]])
    once, ten = count_work(triangle, config, tokens), count_work(triangle, config, tokens, 40)
    assert ten.operations == pytest.approx(10 * once.operations)
    assert ten.optimiser == once.optimiser


@pytest.mark.parametrize("p", [-1.0, 0.0, 0.5, 2.0])
def test_exponent_is_found(p: float) -> None:
    x = [1, 2, 4, 8, 100]
    assert fit_exponent(x, [7 * n**p for n in x]) == pytest.approx(p, abs=1e-12)


def test_exponent_is_the_least_squares_line() -> None:
    x, noise = np.array([1.0, 10.0, 100.0]), np.array([0.1, -0.2, 0.1])  # noise of slope 0
    assert fit_exponent(x, np.exp(noise) * x**1.5) == pytest.approx(1.5)


def test_spread() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([1234.0]).text() == "1,234.0 (1,234.0–1,234.0)"
    assert spread([0.001, 0.002, 0.003]).text(1e3, 0) == "2 (2–2)"


def test_sides_are_timed_in_turns() -> None:
    now, calls = 0.0, ""

    def side(name: str, *seconds: float) -> Callable[[], None]:
        left = iter(seconds)

        def run() -> None:
            nonlocal now, calls
            calls += name
            now += next(left)

        return run

    sides = {"a": side("a", 9, 1, 2, 3), "b": side("b", 9, 10, 20, 30)}
    times = alternate(sides, 3, clock=lambda: now)
    assert calls == "abababab"  # the first round is not timed
    assert {name: t.tolist() for name, t in times.items()} == {"a": [1, 2, 3], "b": [10, 20, 30]}
    calls = ""
    sides = {"a": side("a", *range(6)), "b": side("b", *range(0, 60, 10))}
    times = alternate(sides, 1, clock=lambda: now, in_a_row=2)
    assert calls == "aaabbbaaabbb"  # nor the first of a row
    assert {name: t.tolist() for name, t in times.items()} == {"a": [4.5], "b": [45.0]}


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])]
)
def test_thread_counts(most: int, counts: list[int]) -> None:
    assert thread_counts(most) == counts


def test_stand_in_has_the_statistics_of_letters() -> None:
    text = stand_in(65, 200_000, "!", np.random.default_rng(0))
    assert text == stand_in(65, 200_000, "!", np.random.default_rng(0))
    assert (len(text), len(set(text))) == (200_000, 65)
    tok = CharacterTokenizer.train(text)
    graph = TokenGraph.from_ids(tok.encode(text), tok.n_nodes, prior=False)
    assert graph.n_nodes == 66
    assert 30 < graph.statistics()["out_degree_met"] < 37
    assert len(stand_in(5, 7, "a", np.random.default_rng(0))) == 7


def test_regular_graph_and_walks() -> None:
    rng = np.random.default_rng(0)
    graph = regular_graph(12, 5, rng)
    TokenGraph.from_arrays(graph.to_arrays())  # refuses what is no graph
    assert graph.out_degree.tolist() == [5] * 12
    tokens = walk(graph, 3, 40, rng)
    assert tokens.shape == (3, 41)
    assert (graph.edge(tokens[:, :-1], tokens[:, 1:]) >= 0).all()


def test_tables_line_up() -> None:
    section = Section("title", ("", "s"), [("long name", "1"), ("x", "100")], ["a note"])
    assert section.table() == "== title\n             s\nlong name    1\nx          100\na note"


def test_what_is_not_measured_is_null_with_a_reason() -> None:
    whole = complete({"share_of_sgemm": 0.5, "cold_start_s": None, "cold_start_s_why": "because"})
    assert set(KEYS) <= whole.keys()
    assert whole["share_of_sgemm"] == 0.5
    assert whole["cold_start_s_why"] == "because"
    for key in KEYS[1:]:
        assert whole[key] is None
        assert isinstance(whole[f"{key}_why"], str)


# -------------------------------------------------------------------------------------- the command


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
    monkeypatch.setattr(benchmark, "_rivals", lambda bench: fake)
    return fake


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, minibrillm: Command
) -> Callable[..., tuple[int, str, str]]:
    """``minibrillm bench`` with tiny sizes, in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(benchmark, "FULL", TINY)
    monkeypatch.setattr(benchmark, "QUICK", TINY)

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

    monkeypatch.setattr(benchmark, "_run", run)
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
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
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
    section = benchmark.memory(Bench(TINY))
    assert section.figures["parameter_bytes"] == 4 * (201 * 20 + 50 * 4 + 4 + 1)
    if benchmark.peak_memory() is not None:
        assert section.figures["peak_bytes"] >= 0


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(UserError, match="failed: ZeroDivisionError"):
        benchmark._run("-c", "1 / 0")
    with pytest.raises(UserError, match="exit code 3"):
        benchmark._run("-c", "raise SystemExit(3)")


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
