"""A command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from minibrillm.checks import UserError


def run_python(*arguments: str, **environment: str) -> str:
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
