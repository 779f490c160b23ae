"""What the figures depend on besides the program."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import numba
import numpy as np
import threadpoolctl

from minibrillm import __version__


def machine() -> dict[str, Any]:
    """Versions, processor, cores and threads, by name."""
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
