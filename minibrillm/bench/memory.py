"""How much memory a training process takes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from minibrillm.bench.process import run_python
from minibrillm.bench.setting import Bench, Section
from minibrillm.bench.stand_ins import synthetic, walk
from minibrillm.config import TrainConfig
from minibrillm.training import Trainer


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
    code = "import json; from minibrillm.bench.memory import training_peak"
    found = json.loads(run_python("-c", f"{code}; print(json.dumps({call}))"))
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
        model = synthetic("shared", n_nodes, out_degree, d_node)
        ids = walk(model.graph, 64, 64, np.random.default_rng(0)).ravel()
        config = TrainConfig(steps=3, batch_size=8, sequence_length=32)
        return Trainer(model, ids, ids[:2], config)

    trainer = fresh()
    for _ in range(3):
        trainer.train_step()
    return sum(array.nbytes for array in trainer.model.parameters.values())
