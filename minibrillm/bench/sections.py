"""All sections by name, and the figures that every run accounts for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minibrillm.bench.generation import generation
from minibrillm.bench.growth import growth
from minibrillm.bench.limit import limit
from minibrillm.bench.memory import memory
from minibrillm.bench.setting import Bench, Section
from minibrillm.bench.start import start
from minibrillm.bench.texts import texts
from minibrillm.bench.training import training
from minibrillm.checks import UserError

SECTIONS: dict[str, Callable[[Bench], Section]] = {
    f.__name__: f for f in (limit, training, generation, growth, memory, start, texts)
}
_ON_REQUEST = {"texts"}  # it takes many minutes

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
