"""How fast is it, measured in one run: against the machine, against PyTorch, against the size.

What is compared is timed in turns (A B A B …), so that whatever else the machine does hits all
sides alike. Figures are medians, "(low–high)" beside them are quartiles. Quotients are taken
round by round, and then their median. Nothing here prints; `minibrillm bench` does.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import threadpoolctl

from minibrillm import __version__
from minibrillm.bench.small_texts import MAKERS, small_text
from minibrillm.checks import UserError
from minibrillm.config import ModelConfig, TrainConfig
from minibrillm.functional import State
from minibrillm.graph import TokenGraph
from minibrillm.judging.evaluation import number
from minibrillm.model import BriLLM
from minibrillm.runs import kept_steps, save_checkpoint
from minibrillm.text import CharacterTokenizer, locate, read_text
from minibrillm.training import Trainer

Array = np.ndarray
Side = Callable[[], object]

_REST = 0.06  # seconds until the threads of any library sleep

# In every JSON file; null, and why under NAME_why, where this run did not measure it.
KEYS = (
    "share_of_sgemm",
    "share_of_sgemm_released",
    "share_of_sgemm_zh16",
    "share_of_sgemm_zh32",
    "speedup_over_grouped",
    "speedup_over_compiled",
    "speedup_over_per_step",
    "speedup_over_grouped_released",
    "speedup_over_compiled_released",
    "speedup_over_per_step_released",
    "speedup_over_grouped_zh16",
    "speedup_over_grouped_zh32",
    "speedup_two_threads",
    "generation_slowdown_100k",
    "cold_start_s",
    "warm_start_s",
    "peak_bytes_over_parameter_bytes",
)


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Batches are (sequences, edges each); d_node is the node width d."""

    repeats: int = 15
    in_a_row: int = 4  # training steps at each turn
    gemm: int = 2048  # width of the square matrices
    copied_mb: int = 256
    letters: int = 1_000_000  # characters of the stand-in text
    batch: tuple[int, int] = (128, 64)
    numpy_streams: int = 4  # the textbook is slow, per_step hungry: fewer sequences for them
    per_step_streams: int = 16
    compiled: bool = True
    released_peers: bool = True
    d_letters: int = 32
    chinese: int = 850_000
    n_chinese: int = 2048  # nodes
    d_chinese: tuple[int, ...] = (16, 32)
    chinese_batch: tuple[int, int] = (32, 64)
    contexts: tuple[int, ...] = (10, 1_000, 100_000)
    generated: int = 300
    decoded: int = 20  # tokens in a row, where ours and the rival's decoder take turns
    positions: int = 8192  # of one batch, where it grows
    lengths: tuple[int, ...] = (16, 64, 256, 1024)
    degrees: tuple[int, ...] = (8, 16, 32, 64, 96)
    widths: tuple[int, ...] = (8, 16, 32, 64)
    vocabularies: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    memory: tuple[int, int, int] = (2000, 25, 32)  # V, out-degree, d: 211 MB of parameters
    cold_starts: int = 3
    warm_starts: int = 7
    texts: tuple[str, ...] = ()  # of `small_texts.MAKERS`; none: all
    text_minutes: float = 0.5


FULL = Sizes()
QUICK = Sizes(
    repeats=5,
    in_a_row=2,
    letters=200_000,
    compiled=False,
    released_peers=False,
    d_chinese=(),
    generated=100,
    positions=2048,
    degrees=(8, 16, 32, 64),
    vocabularies=(128, 256, 512, 1024),
    cold_starts=1,
    warm_starts=3,
    texts=("templates, zh, 2 kB", "music", "ab × 2000"),
    text_minutes=0.05,
)


# --------------------------------------------------------------------- counting, fitting, medians


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``n`` measurements."""

    median: float
    low: float
    high: float
    n: int

    def text(self, factor: float = 1.0, digits: int = 1) -> str:
        """``median (low–high)``, each times ``factor``."""
        middle, low, high = (
            f"{factor * x:,.{digits}f}" for x in (self.median, self.low, self.high)
        )
        return f"{middle} ({low}–{high})"


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles of some numbers."""
    found = np.fromiter(values, np.float64)
    low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
    return Spread(float(middle), float(low), float(high), found.size)


def fit_exponent(x: Iterable[float], y: Iterable[float]) -> float:
    """The p of y ∝ x^p, by least squares on the logarithms."""
    return float(np.polyfit(np.log(np.fromiter(x, float)), np.log(np.fromiter(y, float)), 1)[0])


def alternate(
    sides: Mapping[str, Side],
    repeats: int,
    rest: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    in_a_row: int = 0,
) -> dict[str, Array]:
    """Seconds that each side takes, in turns: A B C A B C …, after one round that is not timed.

    Parameters
    ----------
    rest : float
        Seconds of sleep before each side. Where the sides have threads of their own (OpenBLAS,
        PyTorch, Numba), those of the last one keep a core busy for some 30 ms after their work.
    in_a_row : int
        Time so many runs of a side at each turn, after one that is not timed, and take their mean:
        what comes after another side finds the caches full of that side's data.

    Returns
    -------
    dict: by name of the side, its times in order, float64 (repeats,)
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            time.sleep(rest)
            if in_a_row:
                side()
            start = clock()
            for _ in range(max(in_a_row, 1)):
                side()
            if turn:
                times[name].append((clock() - start) / max(in_a_row, 1))
    return {name: np.array(found) for name, found in times.items()}


@dataclass(frozen=True)
class Work:
    """What one training step must do, whatever the program.

    Operations are those of the matrix products alone, a multiplication and an addition each
    counting one; activations, norms and softmax come on top and are not counted.
    """

    path: float  # floating-point operations
    competition: float
    optimiser: float  # bytes

    @property
    def operations(self) -> float:
        """Floating-point operations of the whole step."""
        return self.path + self.competition


def count_work(
    graph: TokenGraph, config: ModelConfig, tokens: Array, positions: int | None = None
) -> Work:
    """Count operations and bytes of a training step with the exact softmax.

    At a position whose source is u, K(u) columns compete (``shared``: outdegree(u) + 1, with the
    class of unseen targets; ``three_part``: V). A column costs 2d² forward, 2d² for the gradient of
    the signal, 2d² for that of the matrix; the edge of the path costs the same once more. The
    optimiser streams 44 bytes a parameter: AdamW reads weight, gradient, two moments and average
    and writes all but the gradient (9 × 4); before that the gradient is written and read for its
    norm (2 × 4).

    Parameters
    ----------
    tokens : integer array (B, n + 1)
        The sources are all but the last of each row.
    positions : int, optional
        Count for so many positions with this mix of sources (default: for these, B n).
    """
    sources = tokens[:, :-1]
    three_part = config.edges == "three_part"
    columns = graph.n_nodes if three_part else float((graph.out_degree[sources] + 1).mean())
    path = 6.0 * config.d_node**2 * (sources.size if positions is None else positions)
    parameters = config.n_parameters(graph.n_nodes, graph.n_edges)
    return Work(path, path * columns, 44.0 * parameters)


# ------------------------------------------------------------------- texts and graphs to measure


def stand_in(n_symbols: int, length: int, first: str, rng: np.random.Generator) -> str:
    """A text of a random bigram chain that has the statistics of letters, or of characters.

    Symbols follow a Zipf-like law; the one of rank r is followed by about 0.8 V (r + 1)^-0.3
    others. With 65 symbols the mean out-degree met is 34, as in tiny Shakespeare.

    Parameters
    ----------
    n_symbols, length : int
        V without <unk>, and characters.
    first : str
        The first symbol; the others are the code points that follow it.
    """
    rank = np.arange(n_symbols)
    zipf = 1 / (rank + 2.0)
    drawn = np.argsort(-np.log(zipf) - rng.gumbel(size=(n_symbols, n_symbols)), axis=1)
    place = np.argsort(drawn, axis=1)  # of each target in the order drawn
    followed = np.maximum(1, 0.8 * n_symbols * (rank + 1.0) ** -0.3)
    p = np.where(place < followed[:, None], zipf, 0) * rng.exponential(size=place.shape)
    # Row u of the distribution functions lies between u and u + 1, so that one search serves all.
    cumulative = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1) + rank[:, None]
    cumulative[:, -1] = rank + 1
    flat = cumulative.ravel()
    node = rng.integers(0, n_symbols, 64)
    streams = np.empty((node.size, math.ceil(length / node.size)), np.int64)
    for i in range(streams.shape[1]):
        streams[:, i] = node
        node = np.searchsorted(flat, node + rng.random(node.size), side="right") % n_symbols
    return "".join(map(chr, (streams.ravel()[:length] + ord(first)).tolist()))


def regular_graph(n_nodes: int, out_degree: int, rng: np.random.Generator) -> TokenGraph:
    """A graph in which every node has ``out_degree`` private edges to random nodes; no prior."""
    everyone = np.tile(np.arange(n_nodes), (n_nodes, 1))
    targets = np.sort(rng.permuted(everyone, axis=1)[:, :out_degree], axis=1).ravel()
    ones = np.ones(targets.size, np.int64)
    degree = np.full(n_nodes, out_degree)
    indptr = np.arange(n_nodes + 1) * out_degree
    return TokenGraph(n_nodes, indptr, targets, ones, degree, targets.size, None)


def walk(graph: TokenGraph, streams: int, length: int, rng: np.random.Generator) -> Array:
    """Random walks along the private edges of a `regular_graph`, (streams, length + 1)."""
    tokens = np.empty((streams, length + 1), np.int64)
    tokens[:, 0] = rng.integers(0, graph.n_nodes, streams)
    for i in range(length):
        low, high = graph.indptr[tokens[:, i]], graph.indptr[tokens[:, i] + 1]
        tokens[:, i + 1] = graph.targets[rng.integers(low, high)]
    return tokens


def _synthetic(edges: str, n_nodes: int, out_degree: int, d_node: int) -> BriLLM:
    config = ModelConfig(d_node=d_node, edges=edges, prior="none")
    graph = regular_graph(n_nodes, out_degree, np.random.default_rng(0))
    alphabet = "".join(chr(ord("一") + k) for k in range(n_nodes - 1))
    return BriLLM.create(config, CharacterTokenizer(alphabet), graph)


@dataclass
class Bench:
    """What the sections share: how much to measure, the two texts, where progress is told."""

    sizes: Sizes = FULL
    text: Path | None = None
    chinese: Path | None = None
    note: Callable[[str], None] = lambda line: None
    threads: int = field(default_factory=numba.get_num_threads)

    def __post_init__(self) -> None:
        sizes, rng = self.sizes, np.random.default_rng(0)
        given = {"letters": self.text, "chinese": self.chinese}
        made = {
            "letters": (65, sizes.letters, "!"),
            "chinese": (sizes.n_chinese - 1, sizes.chinese if sizes.d_chinese else 0, "一"),
        }
        self.texts: dict[str, str] = {}
        self.facts: dict[str, str] = {}  # which texts these are, for the report
        for name, path in given.items():
            if path is None and made[name][1] == 0:
                continue
            text = self.texts[name] = (
                read_text(locate(path)) if path else stand_in(*made[name], rng)
            )
            source = path.name if path else "made up, a random bigram chain"
            self.facts[f"text_{name}"] = f"{source}: {len(text):,} characters"

    def trainer(
        self, preset: str = "mini", d_chinese: int = 0, backend: str = "numba", streams: int = 0
    ) -> Trainer:
        """A trainer on the letters, or on the Chinese text with d_chinese as width.

        Every preset trains with the settings of ``mini`` (exact softmax, clipping, averaging).
        """
        sizes = self.sizes
        batch, length = sizes.chinese_batch if d_chinese else sizes.batch
        text = self.texts["chinese" if d_chinese else "letters"]
        n_nodes = sizes.n_chinese if d_chinese else None
        d_node = d_chinese or sizes.d_letters
        model = BriLLM.from_text(text, preset, n_nodes=n_nodes, d_node=d_node, backend=backend)
        config = TrainConfig(steps=10**6, batch_size=streams or batch, sequence_length=length)
        ids = model.tokenizer.encode(text)
        return Trainer(model, ids, ids[:2], config)

    def cases(self) -> dict[str, Callable[[], Trainer]]:
        """What is trained, by suffix of the JSON keys."""

        def chinese(d: int) -> Callable[[], Trainer]:
            return lambda: self.trainer(d_chinese=d)

        letters = {"": self.trainer, "_released": lambda: self.trainer("released")}
        return letters | {f"_zh{d}": chinese(d) for d in self.sizes.d_chinese}


@dataclass
class Section:
    """What one section found: a table for people, figures for programs."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, found: Spread) -> Spread:
        """Keep a figure, with its quartiles as NAME_low and NAME_high."""
        self.figures |= {name: found.median, f"{name}_low": found.low, f"{name}_high": found.high}
        return found

    def table(self) -> str:
        """Title, table and notes as lines of text."""
        rows = [self.head, *self.rows]
        wide = [max(len(row[k]) for row in rows) for k in range(len(self.head))]
        lines = [
            "  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]) for row in rows
        ]
        return "\n".join([f"== {self.title}", *(s.rstrip() for s in lines), *self.notes])


# ----------------------------------------------------------------------------------- 1. the limit


def _sgemm(n: int) -> Side:
    a, b = (np.random.default_rng(k).random((n, n), np.float32) for k in range(2))
    out = np.empty_like(a)
    return lambda: np.dot(a, b, out=out)


def _blas_threads(count: int) -> AbstractContextManager[Any]:
    return threadpoolctl.ThreadpoolController().limit(limits=count, user_api="blas")


def _copy(megabytes: int, threads: int) -> Side:
    source = np.ones((threads, megabytes * 10**6 // (4 * threads)), np.float32)
    target, pool = np.zeros_like(source), ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.copyto, target, source))  # NumPy copies without the GIL


def _in_parts(trainer: Trainer, times: list[Array]) -> Side:
    """A training step that keeps the seconds of its parts, in the order of `_PARTS`."""
    learner, config, ops = trainer.learner, trainer.config, trainer.learner.operations
    arguments = learner.parameters, learner.graph, learner.config

    def step() -> None:
        marks = [time.perf_counter()]
        tokens = trainer.windows.draw(config.batch_size, trainer.rng).tokens
        marks.append(time.perf_counter())
        path = ops.path_forward(*arguments, tokens)
        marks.append(time.perf_counter())
        found = ops.compete(*arguments, tokens, path.incoming)
        marks.append(time.perf_counter())
        gradients = ops.path_backward(*arguments, tokens, path, found)
        marks.append(time.perf_counter())
        trainer.optimiser.update(gradients, trainer.step + 1, config.learning_rate)
        times.append(np.diff([*marks, time.perf_counter()]))

    return step


_PARTS = ("draw", "forward", "competition", "backward", "optimiser")


def limit(bench: Bench) -> Section:
    """The least a training step must do, the time this takes at best, and the share reached."""
    sizes = bench.sizes
    out = Section(
        f"limit ({bench.threads} threads)",
        ("", "GFLOP", "MB", "at best, ms", "measured, ms", "share of sgemm", "share of copy"),
    )
    gemm_operations, copied = 2.0 * sizes.gemm**3, 2e6 * sizes.copied_mb
    machine = {"sgemm": _sgemm(sizes.gemm), "copy": _copy(sizes.copied_mb, bench.threads)}
    gemm_rate, copy_rate = np.empty(0), np.empty(0)
    with _blas_threads(bench.threads):
        for suffix, build in bench.cases().items():
            bench.note(f"limit{suffix}")
            trainer = build()
            positions = trainer.config.batch_size * trainer.config.sequence_length
            model, whole_text = trainer.model, trainer.windows.ids[None]
            work = count_work(model.graph, model.config, whole_text, positions)
            parts: list[Array] = []
            sides = {"step": trainer.train_step, "parts": _in_parts(trainer, parts)}
            row = sizes.in_a_row
            t = alternate(machine | sides, sizes.repeats, _REST, in_a_row=row)
            timed = np.reshape(parts, (sizes.repeats + 1, row + 1, len(_PARTS)))[1:, 1:]
            t |= dict(zip(_PARTS, timed.mean(axis=1).T, strict=True))
            by_gemm, by_copy = gemm_operations / t["sgemm"], copied / t["copy"]  # this round's
            gemm_rate, copy_rate = np.append(gemm_rate, by_gemm), np.append(copy_rate, by_copy)
            columns = f"{work.competition / work.path:.1f} columns compete"
            out.rows.append((f"{_title(suffix, trainer)}, {columns}", *[""] * 6))
            for key, label, seconds, operations, moved in (
                ("step", "whole step", t["step"], work.operations, work.optimiser),
                ("path", "path", t["forward"] + t["backward"], work.path, 0.0),
                ("competition", "competition", t["competition"], work.competition, 0.0),
                ("optimiser", "optimiser", t["optimiser"], 0.0, work.optimiser),
                ("draw", "drawing the batch", t["draw"], 0.0, 0.0),
            ):
                found = out.put(f"{key}_s{suffix}", spread(seconds))
                floors = operations / by_gemm, moved / by_copy
                shares = [spread(floor / seconds) for floor in floors]
                at_best = [f"{1e3 * np.median(floor):.2f}" for floor in floors if floor.any()]
                if key == "step":
                    out.put(f"floor_sgemm_s{suffix}", spread(floors[0]))
                    out.put(f"floor_copy_s{suffix}", spread(floors[1]))
                    out.put(f"share_of_sgemm{suffix}", shares[0])
                    out.put(f"share_of_both_floors{suffix}", spread(sum(floors) / seconds))
                out.rows.append(
                    (
                        f"  {label}",
                        f"{operations / 1e9:.3f}" if operations else "",
                        f"{moved / 1e6:.1f}" if moved else "",
                        " + ".join(at_best),
                        found.text(1e3, 2),
                        shares[0].text(digits=3) if operations else "",
                        shares[1].text(digits=3) if moved else "",
                    )
                )
            out.figures[f"operations_per_step{suffix}"] = work.operations
            out.figures[f"optimiser_bytes_per_step{suffix}"] = work.optimiser
    gemm = out.put("sgemm_flops_per_s", spread(gemm_rate))
    copy = out.put("copy_bytes_per_s", spread(copy_rate))
    out.notes += [
        f"sgemm {sizes.gemm}³: {gemm.text(1e-9)} GFLOP/s; copy of {sizes.copied_mb} MB, bytes read "
        f"and written: {copy.text(1e-9)} GB/s; both timed in turns with the steps",
        "GFLOP: matrix products only (activations are extra, uncounted): 6 d² for each column that "
        "competes (shared: out-degree + 1; three-part: V), and 6 d² for the path's own edge",
        "MB: the optimiser, 44 bytes a parameter (AdamW 36; the gradient written, and read for its "
        "norm, 8); at best: GFLOP at the rate of sgemm + MB at that of the copy",
        "every preset with the exact softmax and the optimiser settings of mini",
    ]
    return out


def _title(suffix: str, trainer: Trainer) -> str:
    """What is trained, in words."""
    model, config = trainer.model, trainer.config
    name = {"": "mini, letters", "_released": "released, letters"}.get(suffix, "mini, Chinese")
    batch = f"{config.batch_size} × {config.sequence_length} a step"
    return f"{name}: V {model.graph.n_nodes:,}, d {model.config.d_node}, {batch}"


# ------------------------------------------------------------------------------------ 2. training

_LABELS = {
    "numpy": "textbook (NumPy)",
    "grouped": "PyTorch, positions grouped by source",
    "compiled": "the same, torch.compile",
    "per_step": "PyTorch, position after position",
}


@dataclass(frozen=True)
class _Runner:
    key: str
    label: str
    streams: int
    step: Side


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, … and all threads."""
    return sorted({1 << k for k in range(most.bit_length()) if 1 << k <= most} | {most})


def training(bench: Bench) -> Section:
    """Tokens a second of whole training steps: textbook, kernels by threads, PyTorch."""
    sizes, most = bench.sizes, bench.threads
    out = Section(
        f"training, whole steps ({most} threads but where said)",
        ("", "sequences", "tokens/s", "Numba on all threads is faster by"),
    )
    for suffix, build in bench.cases().items():
        if suffix == "_released" and not sizes.released_peers:
            continue
        trainer = build()
        streams = trainer.config.batch_size
        peers = ("grouped",) if suffix.startswith("_zh") else ("grouped", "compiled", "per_step")
        runners = []
        if not suffix:
            slow = bench.trainer(backend="numpy", streams=sizes.numpy_streams)
            runners.append(
                _Runner("numpy", _LABELS["numpy"], slow.config.batch_size, slow.train_step)
            )
        for k in [most] if suffix else thread_counts(most):
            label = f"Numba, {k} thread{'s' * (k > 1)}"
            runners.append(_Runner(f"{k}_threads", label, streams, _on_threads(k, trainer)))
        for peer in peers:
            bench.note(f"training{suffix}: {_LABELS[peer]}")
            few = min(streams, sizes.per_step_streams) if peer == "per_step" else streams
            try:
                runners.append(_Runner(peer, _LABELS[peer], few, _peer(bench, trainer, peer, few)))
            except _NotAvailable as reason:
                width = f" (d {trainer.model.config.d_node})" if suffix else ""
                out.notes.append(f"not available: {_LABELS[peer]}{width}: {reason}")
                out.figures[f"speedup_over_{peer}{suffix}_why"] = str(reason)
        with _blas_threads(most):
            steps = {r.key: r.step for r in runners}
            times = alternate(steps, sizes.repeats, _REST, in_a_row=sizes.in_a_row)
        length = trainer.config.sequence_length
        rates = {r.key: r.streams * length / times[r.key] for r in runners}
        out.rows.append((_title(suffix, trainer), "", "", ""))
        for r in runners:
            rate = out.put(f"tokens_per_s_{r.key}{suffix}", spread(rates[r.key]))
            faster = spread(rates[f"{most}_threads"] / rates[r.key])
            if r.key in _LABELS:
                out.put(f"speedup_over_{r.key}{suffix}", faster)
            out.rows.append(
                (f"  {r.label}", str(r.streams), rate.text(digits=0), faster.text(digits=2))
            )
        if not suffix and most > 1:
            out.put("speedup_two_threads", spread(rates["2_threads"] / rates["1_threads"]))
        elif not suffix:
            out.figures["speedup_two_threads_why"] = "there is one thread only"
    numba.set_num_threads(most)
    return out


class _NotAvailable(Exception):
    """This cannot be measured here, and why."""


def _on_threads(count: int, trainer: Trainer) -> Side:
    def step() -> None:
        numba.set_num_threads(count)
        trainer.train_step()

    return step


def _rivals(bench: Bench) -> ModuleType:
    if importlib.util.find_spec("torch") is None:
        raise _NotAvailable("PyTorch is not installed")
    from minibrillm import rivals

    rivals.set_threads(bench.threads)
    return rivals


def _peer(bench: Bench, trainer: Trainer, peer: str, streams: int) -> Side:
    """A training step of the same model in PyTorch, once both agree on the loss."""
    if peer == "compiled" and not bench.sizes.compiled:
        raise _NotAvailable("left out, for compiling takes long")
    rivals, model, config = _rivals(bench), trainer.learner, trainer.config
    rng = np.random.default_rng(1)

    def draw() -> Array:
        return trainer.windows.draw(streams, rng).tokens

    tokens = draw()
    try:
        twin = rivals.Twin(
            model,
            layout="per_step" if peer == "per_step" else "grouped",
            compiled=peer == "compiled",
        )
        theirs = twin(tokens).item()
        twin_trainer = rivals.TwinTrainer(twin, config)
        twin_trainer.step(tokens, 1e-4)
    except (UserError, MemoryError, RuntimeError) as error:
        raise _NotAvailable(str(error) or "not enough memory") from None
    _agree(f"the loss of {_LABELS[peer]}", model.loss(tokens), theirs)
    return lambda: twin_trainer.step(draw(), 1e-4)


def _agree(what: str, ours: float, theirs: float) -> None:
    if not abs(ours - theirs) <= 1e-4 * max(1.0, abs(ours)):
        raise UserError(f"{what} is {theirs:.6f}, ours is {ours:.6f}: nothing to compare")


# ---------------------------------------------------------------------------------- 3. generation


def generation(bench: Bench) -> Section:
    """Greedy tokens a second after contexts of several lengths, beside a decoder that sums anew."""
    sizes = bench.sizes
    out = Section(
        f"generation, greedy, one stream ({bench.threads} threads)",
        ("context", "ours, tokens/s", "PyTorch, the past summed anew", "ours is faster by"),
    )
    trainer = bench.trainer()
    model, ids = trainer.model, np.resize(trainer.windows.ids, max(sizes.contexts) + 1)
    states = {}
    for context in sizes.contexts:
        bench.note(f"generation: reading {context:,} tokens")
        states[context] = model.read(ids[:context])
    times = alternate({str(c): _write(model, s) for c, s in states.items()}, sizes.generated)
    for context, state in states.items():
        rate = out.put(f"generation_tokens_per_s_{context}", spread(1 / times[str(context)]))
        shown = ["", ""]
        try:
            decoder = _decoder(bench, model, ids[: context + 1], state)
            sides = {"ours": _write(model, state), "theirs": decoder}
            in_a_row = {name: _repeat(side, sizes.decoded) for name, side in sides.items()}
            t = alternate(in_a_row, sizes.repeats, _REST)
            each = spread(sizes.decoded / t["theirs"])
            theirs = out.put(f"decoder_tokens_per_s_{context}", each)
            faster = out.put(f"speedup_over_decoder_{context}", spread(t["theirs"] / t["ours"]))
            shown = [theirs.text(), faster.text(digits=2)]
        except _NotAvailable as reason:
            out.notes.append(f"not available: PyTorch at context {context:,}: {reason}")
        out.rows.append((f"{context:,}", rate.text(digits=0), *shown))
    for context in sizes.contexts[1:]:
        slower = spread(times[str(context)] / times[str(sizes.contexts[0])])
        name = "100k" if context == 100_000 else str(context)
        out.put(f"generation_slowdown_{name}", slower)
        out.notes.append(
            f"a token after {context:,} takes {slower.text(digits=3)} times as long as one after "
            f"{sizes.contexts[0]:,} ({sizes.generated} of each, in turns)"
        )
    return out


def _repeat(side: Side, times: int) -> Side:
    def run() -> None:
        for _ in range(times):
            side()

    return run


def _write(model: BriLLM, state: State) -> Side:
    """One step of greedy decoding, always from the same state: the context stays as long."""

    def step() -> None:
        token = int(model.next_logits(state).argmax())
        model.read(np.array([token]), state)

    return step


def _decoder(bench: Bench, model: BriLLM, ids: Array, state: State) -> Side:
    """A step of `rivals.PerStepDecoder`, once both agree on the loudest answer's logit.

    Its context grows a little as it writes; ours stays as it is.
    """
    try:
        decoder = _rivals(bench).PerStepDecoder(model)
        decoder.read(ids[:-1])
    except (UserError, MemoryError, RuntimeError) as error:
        raise _NotAvailable(str(error) or "not enough memory") from None
    logits = np.asarray(decoder.step(int(ids[-1])))
    ours = model.next_logits(model.read(ids[-1:], state))
    _agree(f"the loudest logit of PyTorch after {len(ids)} tokens", ours.max(), logits.max())
    token = int(logits.argmax())

    def step() -> None:
        nonlocal token
        token = int(np.asarray(decoder.step(token)).argmax())

    return step


# -------------------------------------------------------------------------------------- 4. growth


def growth(bench: Bench) -> Section:
    """Time per token of forward and backward as one size grows, and the exponent that fits it."""
    sizes = bench.sizes
    out = Section(
        f"growth of the time for a token, forward and backward ({bench.threads} threads)",
        ("", "µs per token at each size", "exponent"),
    )
    positions = sizes.positions
    # By axis: its sizes, and for each of them edges, V, out-degree, d; edges a sequence; positions.
    Settings = tuple[tuple[str, int, int, int], int, int]
    axes: dict[str, tuple[Sequence[int], Callable[[int], Settings]]] = {
        "sequence_length": (sizes.lengths, lambda n: (("three_part", 64, 16, 32), n, positions)),
        "out_degree": (sizes.degrees, lambda k: (("shared", 128, k, 32), 64, positions)),
        "d": (sizes.widths, lambda d: (("shared", 64, 32, d), 64, positions)),
        "V": (sizes.vocabularies, lambda v: (("three_part", v, 8, 16), 64, positions // 4)),
    }
    for axis, (points, settings) in axes.items():
        bench.note(f"growth: {axis}")
        sides, read = {}, {}
        for point in points:
            shape, length, n = settings(point)
            model = _synthetic(*shape)
            streams = max(1, n // length)
            tokens = walk(model.graph, streams, length, np.random.default_rng(0))
            sides[str(point)] = functools.partial(model.loss_and_gradients, tokens)
            read[point] = streams * length
        times = alternate(sides, sizes.repeats)
        per_token = {point: times[str(point)] / read[point] for point in points}
        for point, seconds in per_token.items():
            out.put(f"growth_{axis}_{point}_s_per_token", spread(seconds))
        rounds = zip(*per_token.values(), strict=True)
        exponent = out.put(
            f"growth_{axis}_exponent", spread(fit_exponent(points, r) for r in rounds)
        )
        shown = [f"{p:,}: {1e6 * np.median(s):.2f}" for p, s in per_token.items()]
        label, edges = axis.replace("_", " "), settings(points[0])[0][0].replace("_", "-")
        out.rows.append((f"{label} ({edges} edges)", "   ".join(shown), exponent.text(digits=2)))
    return out


# -------------------------------------------------------------------------------------- 5. memory


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where it is not known."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss would begin with the peak of the parent process
        line = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        return 1024 * int(line[1]) if line else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def training_peak(n_nodes: int, out_degree: int, d_node: int) -> dict[str, int | None]:
    """Peak memory of this process before and after a few training steps; for a fresh process."""
    _train_synthetic(64, 8, 4)  # loads the kernels
    before = peak_memory()
    n_bytes = _train_synthetic(n_nodes, out_degree, d_node)
    return {"parameter_bytes": n_bytes, "before": before, "peak": peak_memory()}


def _train_synthetic(n_nodes: int, out_degree: int, d_node: int) -> int:
    """Three training steps with shared edges; returns the bytes of the parameters."""

    def fresh() -> Trainer:  # as in `minibrillm train`, nobody keeps the model of the first weights
        model = _synthetic("shared", n_nodes, out_degree, d_node)
        ids = walk(model.graph, 64, 64, np.random.default_rng(0)).ravel()
        config = TrainConfig(steps=3, batch_size=8, sequence_length=32)
        return Trainer(model, ids, ids[:2], config)

    trainer = fresh()
    for _ in range(3):
        trainer.train_step()
    return sum(array.nbytes for array in trainer.model.parameters.values())


def memory(bench: Bench) -> Section:
    """Peak memory of a training process, against the bytes of the parameters."""
    n_nodes, out_degree, d = bench.sizes.memory
    out = Section("memory of a training process", ("", "MB", "times the parameters"))
    out.notes += [
        f"shared edges, V {n_nodes:,}, {n_nodes * out_degree:,} private edges, d {d}; weights, "
        "gradients, two moments and the average are 5 times the parameters",
        "peak: highest resident memory, less what a tiny model had needed before",
    ]
    bench.note("memory: training in a process of its own")
    _train_synthetic(64, 8, 4)  # compiles, if need be, here: that must not count as memory below
    call = f"training_peak({n_nodes}, {out_degree}, {d})"
    code = "import json; from minibrillm.bench.benchmark import training_peak"
    found = json.loads(_run("-c", f"{code}; print(json.dumps({call}))"))
    bytes_ = found["parameter_bytes"]
    out.rows.append(("parameters", f"{bytes_ / 1e6:.1f}", "1.00"))
    out.figures["parameter_bytes"] = bytes_
    if found["peak"] is None:
        why = "this system does not tell the peak memory of a process"
        out.notes.append(f"not available: {why}")
        out.figures["peak_bytes_over_parameter_bytes_why"] = why
        return out
    peak = found["peak"] - found["before"]
    out.rows.append(("peak", f"{peak / 1e6:.1f}", f"{peak / bytes_:.2f}"))
    out.figures |= {"peak_bytes": peak, "peak_bytes_over_parameter_bytes": peak / bytes_}
    return out


# ------------------------------------------------------------------------------------ 6. start-up


def start(bench: Bench) -> Section:
    """Seconds until a command answers: import, generation with and without compiled kernels."""
    sizes = bench.sizes
    out = Section("start-up, a process each", ("", "s"))
    model = bench.trainer().model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint(folder / "run", model)
        command = ["-m", "minibrillm", "generate", str(folder / "run"), "--tokens", "20"]
        command += ["--seed", "0", f"--prompt={bench.texts['letters'][:5]}"]

        def timed(cache: int) -> float:
            begin = time.perf_counter()
            _run(*command, NUMBA_CACHE_DIR=str(folder / f"cache{cache}"))
            return time.perf_counter() - begin

        cold = []
        for k in range(sizes.cold_starts):
            bench.note("start: compiling from nothing")
            cold.append(timed(k))
        bench.note("start: warm")
        sides: dict[str, Side] = {"generate": lambda: timed(0)}
        sides["import"] = lambda: _run("-c", "import minibrillm.model")
        warm = alternate(sides, sizes.warm_starts)
    for key, label, seconds in (
        ("import_s", 'python -c "import minibrillm.model"', warm["import"]),
        ("cold_start_s", "minibrillm generate, 20 tokens, nothing compiled yet", cold),
        ("warm_start_s", "minibrillm generate, 20 tokens, compiled before", warm["generate"]),
    ):
        out.rows.append((label, out.put(key, spread(seconds)).text(digits=2)))
    return out


# --------------------------------------------------------------------------- 7. texts of many kinds


def texts(bench: Bench) -> Section:
    """What `minibrillm train TEXT --minutes 0.5` reaches on small texts of many kinds."""
    out = Section(
        "small texts: nats per token held out, `minibrillm train TEXT --minutes 0.5`",
        ("", "bytes", "n-gram", "windows", "stream", "lead", "step", ""),
    )
    leads = []
    with tempfile.TemporaryDirectory() as name:
        for k, kind in enumerate(bench.sizes.texts or tuple(MAKERS)):
            bench.note(f"texts: {kind}")
            file, run = Path(name) / f"{k}.txt", str(Path(name) / f"run{k}")
            file.write_text(small_text(kind), encoding="utf-8")
            train = ["train", str(file), "--minutes", str(bench.sizes.text_minutes), "--out", run]
            _run("-m", "minibrillm", *train)
            found = json.loads(_run("-m", "minibrillm", "evaluate", run, "--json"))
            *_, ngram, windows, stream = (
                math.inf if s["nats_per_token"] is None else s["nats_per_token"]
                for s in found["scores"]
            )
            lead = ngram - min(windows, stream)
            leads.append(lead)
            step, _ = kept_steps(Path(run))
            verdict = found["verdict"]
            losses = [number(x) for x in (ngram, windows, stream)]
            size = f"{file.stat().st_size:,}"
            said = verdict.split(" by ")[0].split(":")[0]
            row = (kind, size, *losses, f"{lead:+.4f}", str(step), said)
            out.rows.append(row)
            out.figures |= {f"lead, {kind}": max(lead, -1e9), f"verdict, {kind}": verdict}
    ahead = sum(lead > 0 for lead in leads)
    out.notes.append(
        f"ahead of the best n-gram in {ahead} of {len(leads)}, at the worst {min(leads):+.4f}; the "
        "step is the one whose weights did best and are kept"
    )
    out.figures |= {"texts": len(leads), "texts_ahead": ahead, "texts_worst_lead": min(leads)}
    return out


def _run(*arguments: str, **environment: str) -> str:
    """What a fresh Python writes; a `UserError` with its last words if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"a process that was to be measured failed: {last}")
    return done.stdout


# -------------------------------------------------------------------------------------- the whole

SECTIONS: dict[str, Callable[[Bench], Section]] = {
    f.__name__: f for f in (limit, training, generation, growth, memory, start, texts)
}
_ON_REQUEST = {"texts"}  # it takes many minutes


def check_sections(names: Sequence[str]) -> list[str]:
    """The sections asked for, in their order; if none, all but what takes very long.

    An unknown name is a `UserError`.
    """
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"there is no section {name!r}; choose from {', '.join(SECTIONS)}")
    wanted = names or SECTIONS.keys() - _ON_REQUEST
    return [name for name in SECTIONS if name in wanted]


def complete(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with every one of `KEYS`; those not measured are null, with a reason."""
    out = dict(figures)
    for key in KEYS:
        if out.setdefault(key, None) is None:
            out.setdefault(f"{key}_why", "not measured in this run (section or size left out)")
    return out


def machine() -> dict[str, Any]:
    """What the figures depend on besides the program."""
    name = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.exists():
        found = re.search(r"model name\s*: (.+)", about.read_text(encoding="utf-8"))
        name = found[1] if found else name
    return {
        "minibrillm": __version__,
        "machine": name,
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": numba.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "blas": "; ".join(
            f"{lib['internal_api']} {lib.get('version')} {lib.get('architecture', '')}".strip()
            for lib in threadpoolctl.threadpool_info()
            if lib["user_api"] == "blas"
        ),
    }
