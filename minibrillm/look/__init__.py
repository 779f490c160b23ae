"""Look inside: traces and figures."""

from minibrillm.look.figures import (
    chinese_font,
    plot_answers,
    plot_comparison,
    plot_history,
    plot_ladder,
    plot_model,
    plot_trace,
    use_fonts,
)
from minibrillm.look.inspection import Trace, trace

__all__ = [
    "Trace",
    "chinese_font",
    "plot_answers",
    "plot_comparison",
    "plot_history",
    "plot_ladder",
    "plot_model",
    "plot_trace",
    "trace",
    "use_fonts",
]
