"""How fast is it, measured in one run: against the machine, against PyTorch, against the size."""

from minibrillm.bench.machine import machine
from minibrillm.bench.sections import KEYS, SECTIONS, check_sections, complete
from minibrillm.bench.setting import FULL, QUICK, Bench, Section, Sizes
from minibrillm.bench.small_texts import MAKERS, fill, small_text
from minibrillm.bench.stand_ins import regular_graph, stand_in, walk
from minibrillm.bench.timing import Spread, alternate, fit_exponent, spread
from minibrillm.bench.work import Work, count_work

__all__ = [
    "FULL",
    "KEYS",
    "MAKERS",
    "QUICK",
    "SECTIONS",
    "Bench",
    "Section",
    "Sizes",
    "Spread",
    "Work",
    "alternate",
    "check_sections",
    "complete",
    "count_work",
    "fill",
    "fit_exponent",
    "machine",
    "regular_graph",
    "small_text",
    "spread",
    "stand_in",
    "walk",
]
