"""How long a command takes to answer."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from minibrillm.bench.process import run_python
from minibrillm.bench.setting import Bench, Section
from minibrillm.bench.timing import Side, alternate, spread
from minibrillm.storage import save_checkpoint


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
            run_python(*command, NUMBA_CACHE_DIR=str(folder / f"cache{cache}"))
            return time.perf_counter() - begin

        cold = []
        for k in range(sizes.cold_starts):
            bench.note("start: compiling from nothing")
            cold.append(timed(k))
        bench.note("start: warm")
        sides: dict[str, Side] = {"generate": lambda: timed(0)}
        sides["import"] = lambda: run_python("-c", "import minibrillm.model")
        warm = alternate(sides, sizes.warm_starts)
    for key, label, seconds in (
        ("import_s", 'python -c "import minibrillm.model"', warm["import"]),
        ("cold_start_s", "minibrillm generate, 20 tokens, nothing compiled yet", cold),
        ("warm_start_s", "minibrillm generate, 20 tokens, compiled before", warm["generate"]),
    ):
        out.rows.append((label, out.put(key, spread(seconds)).text(digits=2)))
    return out
