"""The command `info`."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from typing import Any

from minibrillm import __version__
from minibrillm.checks import UserError
from minibrillm.cli.options import AsJson
from minibrillm.cli.terminal import say

_PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "matplotlib", "tokenizers", "safetensors")


def info(as_json: AsJson = False) -> None:
    """Versions, threads, BLAS, fonts: for a bug report."""
    facts = _facts()
    if as_json:
        say(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for name, value in facts.items():
        say(f"{name:>16}  {value}")


def _facts() -> dict[str, Any]:
    import numba

    from minibrillm import kernels
    from minibrillm.look import chinese_font

    n_threads = numba.get_num_threads()  # starts them: the layer is known from here on
    try:
        font = chinese_font()
    except UserError as error:
        font = str(error)
    return {
        "minibrillm": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        **_versions(),
        "threads": n_threads,
        "cores": os.cpu_count(),
        "threading layer": numba.threading_layer(),
        "kernel cache": kernels.cache_folder(),
        "BLAS": ", ".join(_blas()),
        "Chinese font": font,
        "output encoding": sys.stdout.encoding,
    }


def _versions() -> dict[str, str]:
    import importlib.metadata

    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _blas() -> list[str]:
    """The libraries that multiply matrices, each once."""
    import threadpoolctl

    return sorted(
        {
            f"{lib['internal_api']} {lib.get('version')} ({lib.get('architecture', 'unknown')})"
            for lib in threadpoolctl.threadpool_info()
            if lib["user_api"] == "blas"
        }
    )
