"""Look inside: traces, figures and the graph; matplotlib is imported only to draw."""

from minibrillm.look.figures import (
    plot_comparison,
    plot_history,
    plot_ladder,
    plot_model,
    plot_trace,
)
from minibrillm.look.fonts import chinese_font, use_fonts
from minibrillm.look.inspection import Trace, trace
from minibrillm.look.networks import to_networkx

__all__ = [
    "Trace",
    "chinese_font",
    "plot_comparison",
    "plot_history",
    "plot_ladder",
    "plot_model",
    "plot_trace",
    "to_networkx",
    "trace",
    "use_fonts",
]
