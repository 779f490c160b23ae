"""Tokens a second of whole training steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np

from minibrillm.bench.pytorch import NotAvailable, agree, rivals
from minibrillm.bench.setting import Bench, Section, title
from minibrillm.bench.timing import REST, Side, alternate, blas_threads, spread
from minibrillm.checks import UserError
from minibrillm.training import Trainer

Array = np.ndarray

_LABELS = {
    "numpy": "textbook (NumPy)",
    "grouped": "PyTorch, positions grouped by source",
    "compiled": "the same, torch.compile",
    "per_step": "PyTorch, position after position",
}


@dataclass(frozen=True)
class _Runner:
    """A program that trains: its name in figures and in words, sequences a step, one step."""

    key: str
    label: str
    streams: int
    step: Side


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
        runners = [*_ours(bench, suffix, trainer), *_peers(bench, suffix, trainer, out)]
        with blas_threads(most):
            steps = {r.key: r.step for r in runners}
            times = alternate(steps, sizes.repeats, REST, in_a_row=sizes.in_a_row)
        length = trainer.config.sequence_length
        rates = {r.key: r.streams * length / times[r.key] for r in runners}
        out.rows.append((title(suffix, trainer), "", "", ""))
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


def _ours(bench: Bench, suffix: str, trainer: Trainer) -> Iterator[_Runner]:
    """The kernels on all threads; for the letters the textbook and fewer threads too."""
    if not suffix:
        slow = bench.trainer(backend="numpy", streams=bench.sizes.numpy_streams)
        yield _Runner("numpy", _LABELS["numpy"], slow.config.batch_size, slow.train_step)
    for k in [bench.threads] if suffix else thread_counts(bench.threads):
        label = f"Numba, {k} thread{'s' * (k > 1)}"
        step = _on_threads(k, trainer)
        yield _Runner(f"{k}_threads", label, trainer.config.batch_size, step)


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, … and all threads."""
    return sorted({1 << k for k in range(most.bit_length()) if 1 << k <= most} | {most})


def _on_threads(count: int, trainer: Trainer) -> Side:
    def step() -> None:
        numba.set_num_threads(count)
        trainer.train_step()

    return step


def _peers(bench: Bench, suffix: str, trainer: Trainer, out: Section) -> Iterator[_Runner]:
    """The same in PyTorch; what is not available is said in the notes and figures of ``out``."""
    for key in ("grouped",) if suffix.startswith("_zh") else ("grouped", "compiled", "per_step"):
        bench.note(f"training{suffix}: {_LABELS[key]}")
        streams = trainer.config.batch_size
        if key == "per_step":
            streams = min(streams, bench.sizes.per_step_streams)
        try:
            yield _Runner(key, _LABELS[key], streams, _peer(bench, trainer, key, streams))
        except NotAvailable as reason:
            width = f" (d {trainer.model.config.d_node})" if suffix else ""
            out.notes.append(f"not available: {_LABELS[key]}{width}: {reason}")
            out.figures[f"speedup_over_{key}{suffix}_why"] = str(reason)


def _peer(bench: Bench, trainer: Trainer, peer: str, streams: int) -> Side:
    """A training step of the same model in PyTorch, once both agree on the loss."""
    if peer == "compiled" and not bench.sizes.compiled:
        raise NotAvailable("left out, for compiling takes long")
    twins, model, config = rivals(bench), trainer.learner, trainer.config
    rng = np.random.default_rng(1)

    def draw() -> Array:
        return trainer.windows.draw(streams, rng).tokens

    tokens = draw()
    try:
        twin = twins.Twin(
            model,
            layout="per_step" if peer == "per_step" else "grouped",
            compiled=peer == "compiled",
        )
        theirs = twin(tokens).item()
        twin_trainer = twins.TwinTrainer(twin, config)
        twin_trainer.step(tokens, 1e-4)
    except (UserError, MemoryError, RuntimeError) as error:
        raise NotAvailable(str(error) or "not enough memory") from None
    agree(f"the loss of {_LABELS[peer]}", model.loss(tokens), theirs)
    return lambda: twin_trainer.step(draw(), 1e-4)
