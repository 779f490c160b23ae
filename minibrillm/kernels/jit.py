"""How kernels are compiled: two decorators, one cache, one caller at a time."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import (
    InTreeCacheLocator,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)

from minibrillm.machine import squares

Function = Callable[..., Any]

# Sums may be re-ordered and fused so that loops vectorise; NaN and infinity keep their meaning.
_FLAGS = {"contract", "reassoc", "nsz"}
INLINED: Any = {"forceinline": True, "error_model": "numpy", "fastmath": _FLAGS}


@functools.cache
def _stamp() -> str:
    """A digest of every file that compiled code is made of: this folder, and a few constants."""
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), Path(squares.__file__)]:
        digest.update(path.read_bytes() + b"|")
    return digest.hexdigest()


class _WholeFolder:
    """Numba keeps compiled code until the file of its function changes. Kernels call functions of
    other files, so here any change in the folder counts."""

    def get_source_stamp(self) -> str:
        return _stamp()


class InFolderOfUser(_WholeFolder, UserProvidedCacheLocator):
    """The cache lies where ``NUMBA_CACHE_DIR`` says,"""


class BesideSource(_WholeFolder, InTreeCacheLocator):
    """else beside the source,"""


class InHome(_WholeFolder, UserWideCacheLocator):
    """else, if that cannot be written, in the user's own folder."""


LOCATORS = (InFolderOfUser, BesideSource, InHome)


@contextmanager
def _our_locators() -> Iterator[None]:
    config: Any = numba.config
    before = config.CACHE_LOCATOR_CLASSES
    names = (f"{__name__}.{locator.__name__}" for locator in LOCATORS)
    config.CACHE_LOCATOR_CLASSES = ",".join(names)
    try:
        yield
    finally:
        config.CACHE_LOCATOR_CLASSES = before


def inlined(*, exact: bool = False) -> Callable[[Function], Function]:
    """A function that kernels call: it becomes part of each.

    Else a process that compiles would take the function's own code, one that loads from the cache
    the copy that was optimised with its caller, and the two differ in their last bits. ``exact``
    sums are added up in the order in which they are written.
    """
    return numba.njit(**(INLINED | {"fastmath": False}) if exact else INLINED)


def kernel(*, parallel: bool = False) -> Callable[[Function], Function]:
    """A function that Python calls, kept on disk where the machine has a place for it."""
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": _FLAGS, "parallel": parallel}

    def decorate(function: Function) -> Function:
        try:
            with _our_locators():
                return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no place can be written: compile anew in each process
            return numba.njit(**options)(function)

    return decorate


def cache_path(function: Any) -> str:
    """Where the compiled code of a kernel is kept between processes."""
    path = getattr(getattr(function, "stats", None), "cache_path", None)
    return str(path or "none: compiled in each process")


_LOCK = threading.RLock()


def one_at_a_time(function: Function) -> Function:
    """Callers take turns: two Python threads in a parallel kernel abort the process under one of
    Numba's threading layers, and scratch memory is shared."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return function(*args, **kwargs)

    return wrapper
