"""Fonts for figures: one that draws Chinese, beside matplotlib's own.

matplotlib is imported where it is used, so that this room can be entered without it.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from minibrillm.checks import UserError


@functools.cache
def chinese_font() -> str:
    """Name of the font that draws Chinese: Noto Sans SC, carried by the package ``zhplot``.

    Its file is added to matplotlib's fonts; importing ``zhplot`` itself would change settings.
    """
    from matplotlib import font_manager

    found = importlib.util.find_spec("zhplot")
    folder = Path(found.origin).parent / "fonts" if found and found.origin else None
    files = sorted(folder.glob("*.[to]tf")) if folder else []
    if not files:
        raise UserError("the font for Chinese labels is missing; run: pip install zhplot")
    font_manager.fontManager.addfont(files[0])
    return font_manager.FontProperties(fname=files[0]).get_name()


def use_fonts() -> None:
    """Let every figure of this session draw Latin and Chinese text, and minus signs.

    matplotlib falls back from one font to the next only if ``font.family`` itself is a list.
    """
    import matplotlib

    matplotlib.rcParams["font.family"] = ["DejaVu Sans", chinese_font()]
    matplotlib.rcParams["axes.unicode_minus"] = False
    matplotlib.rcParams["axes.spines.top"] = False
    matplotlib.rcParams["axes.spines.right"] = False
    matplotlib.rcParams["figure.constrained_layout.use"] = True
