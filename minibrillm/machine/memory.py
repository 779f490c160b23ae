"""How much memory a process can still take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")  # the limits of a container on Linux


def free_memory() -> int:
    """Bytes a process can still take on this machine, or in this container if that is less."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError, KeyError):  # no container, or "max": no limit of its own
        limit = int((_CGROUP / "memory.max").read_text(encoding="utf-8"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
        free = min(free, limit - int(dict(line.split() for line in lines)["anon"]))
    return free
