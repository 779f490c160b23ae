"""The least a training step must do, beside the machine's own speed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from minibrillm.bench.setting import Bench, Section, Sizes, title
from minibrillm.bench.timing import REST, Side, alternate, blas_threads, spread
from minibrillm.bench.work import Work, count_work
from minibrillm.training import Trainer

Array = np.ndarray


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
    with blas_threads(bench.threads):
        for suffix, build in bench.cases().items():
            bench.note(f"limit{suffix}")
            trainer = build()
            model, config = trainer.model, trainer.config
            positions = config.batch_size * config.sequence_length
            work = count_work(model.graph, model.config, trainer.windows.ids[None], positions)
            columns = f"{work.competition / work.path:.1f} columns compete"
            out.rows.append((f"{title(suffix, trainer)}, {columns}", *[""] * 6))
            seconds = _time_with_parts(trainer, machine, sizes)
            by_gemm = gemm_operations / seconds["sgemm"]  # operations a second, in each round
            by_copy = copied / seconds["copy"]
            _report(out, suffix, work, seconds, by_gemm, by_copy)
            gemm_rate, copy_rate = np.append(gemm_rate, by_gemm), np.append(copy_rate, by_copy)
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


def _report(
    out: Section,
    suffix: str,
    work: Work,
    seconds: Mapping[str, Array],
    by_gemm: Array,
    by_copy: Array,
) -> None:
    """Rows and figures of one case; seconds, and the machine's rates, of each round, (repeats,)."""
    path = seconds["forward"] + seconds["backward"]
    for key, label, measured, operations, moved in (
        ("step", "whole step", seconds["step"], work.operations, work.optimiser),
        ("path", "path", path, work.path, 0.0),
        ("competition", "competition", seconds["competition"], work.competition, 0.0),
        ("optimiser", "optimiser", seconds["optimiser"], 0.0, work.optimiser),
        ("draw", "drawing the batch", seconds["draw"], 0.0, 0.0),
    ):
        found = out.put(f"{key}_s{suffix}", spread(measured))
        floors = operations / by_gemm, moved / by_copy
        shares = [spread(floor / measured) for floor in floors]
        at_best = [f"{1e3 * np.median(floor):.2f}" for floor in floors if floor.any()]
        if key == "step":
            out.put(f"floor_sgemm_s{suffix}", spread(floors[0]))
            out.put(f"floor_copy_s{suffix}", spread(floors[1]))
            out.put(f"share_of_sgemm{suffix}", shares[0])
            out.put(f"share_of_both_floors{suffix}", spread(sum(floors) / measured))
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


# ------------------------------------------------------------------------------ what takes turns


def _sgemm(n: int) -> Side:
    a, b = (np.random.default_rng(k).random((n, n), np.float32) for k in range(2))
    out = np.empty_like(a)
    return lambda: np.dot(a, b, out=out)


def _copy(megabytes: int, threads: int) -> Side:
    source = np.ones((threads, megabytes * 10**6 // (4 * threads)), np.float32)
    target, pool = np.zeros_like(source), ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.copyto, target, source))  # NumPy copies without the GIL


_PARTS = ("draw", "forward", "competition", "backward", "optimiser")


def _time_with_parts(
    trainer: Trainer, machine: Mapping[str, Side], sizes: Sizes
) -> dict[str, Array]:
    """Seconds of the machine's sides, of "step", and of each of `_PARTS`, (repeats,) each."""
    parts: list[Array] = []
    sides = {"step": trainer.train_step, "parts": _in_parts(trainer, parts)}
    row = sizes.in_a_row
    times = alternate({**machine, **sides}, sizes.repeats, REST, in_a_row=row)
    timed = np.reshape(parts, (sizes.repeats + 1, row + 1, len(_PARTS)))[1:, 1:]
    return times | dict(zip(_PARTS, timed.mean(axis=1).T, strict=True))


def _in_parts(trainer: Trainer, times: list[Array]) -> Side:
    """A training step that keeps the seconds of its parts, in the order of `_PARTS`."""
    learner, config, ops = trainer.learner, trainer.config, trainer.learner.operations

    def step() -> None:
        marks = [time.perf_counter()]
        tokens = trainer.windows.draw(config.batch_size, trainer.rng).tokens
        marks.append(time.perf_counter())
        path = ops.path_forward(learner, tokens)
        marks.append(time.perf_counter())
        share = np.full(tokens[:, 1:].shape, 1 / tokens[:, 1:].size)
        found = ops.compete(learner, tokens, path, share=share)
        marks.append(time.perf_counter())
        gradients = ops.path_backward(learner, tokens, path, found)
        marks.append(time.perf_counter())
        trainer.optimiser.update(gradients, trainer.step + 1, config.learning_rate)
        times.append(np.diff([*marks, time.perf_counter()]))

    return step
