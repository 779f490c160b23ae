"""Figures. Each returns its matplotlib ``Axes``, or ``Figure``; Chinese labels always work.

matplotlib is imported where a figure is drawn: whoever only reads a trace does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minibrillm.look.fonts import use_fonts
from minibrillm.look.inspection import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from minibrillm.judging.comparison import Comparison
    from minibrillm.storage import Record

# Told apart by everybody (Okabe & Ito).
_SAFE = ("#56b4e9", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
_BLUE, _ORANGE, _GREY = "#1f77b4", "#d95f02", "#9a9a9a"


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, else those of a new figure, width × height inches; fonts are set."""
    import matplotlib.pyplot as plt

    use_fonts()
    return plt.subplots(figsize=(width, height))[1] if ax is None else ax


def plot_trace(trace: Trace, *, top: int = 8, ax: Axes | None = None) -> Axes:
    """A sentence edge by edge: columns are steps, each lists the likeliest next nodes.

    Colour is the probability. The true next token stands below its column, with its rank where
    that is beyond ``top``, and is framed where it is among the first.
    """
    from matplotlib.patches import Rectangle

    n, top = len(trace.tokens) - 1, min(top, trace.probabilities.shape[1])
    ax = _axes(ax, 0.62 * n + 1.4, 0.36 * top + 1.7)
    order = np.argsort(-trace.probabilities, axis=1, kind="stable")[:, :top]
    shown = np.take_along_axis(trace.probabilities, order, axis=1)
    image = ax.imshow(shown.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label="p", fraction=0.03, pad=0.01, aspect=30)
    for i in range(n):
        true = int(trace.tokens[i + 1])
        for k in range(top):
            v = int(order[i, k])
            colour = "white" if shown[i, k] > 0.6 else "black"
            ax.text(i, k, trace.label(v), ha="center", va="center", color=colour, fontsize=10)
            if v == true:
                ax.add_patch(
                    Rectangle((i - 0.5, k - 0.5), 1, 1, fill=False, ec=_ORANGE, lw=2, clip_on=False)
                )
        rank = int(np.flatnonzero(np.argsort(-trace.probabilities[i], kind="stable") == true)[0])
        text = trace.label(true) if rank < top else f"{trace.label(true)}\n({rank + 1})"
        ax.text(i, top - 0.3, text, ha="center", va="top", color=_ORANGE, fontsize=10)
    ax.set_xticks(range(n), [trace.label(int(v)) for v in trace.tokens[:-1]])
    ax.xaxis.tick_top()
    ax.set_yticks(range(top), [str(k + 1) for k in range(top)])
    ax.set_ylabel("rank")
    ax.set_xlabel("read", loc="left")
    ax.xaxis.set_label_position("top")
    ax.text(-0.6, top - 0.3, "true next", ha="right", va="top", color=_ORANGE, fontsize=9)
    ax.set_ylim(top + 0.7, -0.5)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    return ax


def plot_history(
    history: Sequence[Record], baselines: dict[str, float] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Training and held-out loss against seconds, in nats per token.

    Parameters
    ----------
    history : sequence of Record
    baselines : dict, optional
        Name and loss of horizontal lines, such as n-grams.
    """
    ax = _axes(ax, 6.4, 3.6)
    seconds = np.array([r.seconds for r in history])
    train = np.array([r.train_loss for r in history])
    heldout = np.array([r.heldout_loss for r in history])
    measured = ~np.isnan(heldout)
    ax.plot(seconds, train, color=_BLUE, lw=0.8, alpha=0.7, label="training batch")
    ax.plot(seconds[measured], heldout[measured], "o-", color=_ORANGE, ms=4, label="held out")
    for k, (name, loss) in enumerate((baselines or {}).items()):
        ax.axhline(loss, color=_GREY, lw=1, ls=("--", ":", "-.")[k % 3], label=name)
    ax.set_xlabel("seconds")
    ax.set_ylabel("nats per token")
    # Below: beside the lines it would cover some of them.
    ax.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return ax


def plot_comparison(found: Comparison) -> Figure:
    """Held-out loss of all that were compared, against seconds and against parameters.

    Left: on the validation part as training goes on, n-grams as lines. Right: on the test part at
    the end, the best reading of each; bars are the standard deviation over seeds.
    """
    import matplotlib.pyplot as plt

    use_fonts()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2))
    rows = found.best()
    networks = [row.name for row in rows if row.contender != "ngrams"]
    style = dict(zip(networks, zip(_SAFE, "osD^v", strict=True), strict=False))
    for curve in found.curves:
        colour, marker = style[curve.name]
        left.plot(
            curve.seconds, curve.losses, color=colour, marker=marker, ms=4, lw=1.2, label=curve.name
        )
    # What the first moments were would hide the rest.
    top = max((max(curve.losses[1:] or curve.losses) for curve in found.curves), default=np.inf)
    ngrams = [row for row in rows if row.contender == "ngrams"]
    for row, dashes in zip(ngrams, ("--", ":"), strict=False):
        if np.mean(row.validation) <= top:
            left.axhline(np.mean(row.validation), color=_GREY, lw=1, ls=dashes, label=row.name)
    if found.curves:
        left.set_ylim(top=top + 0.02)
    left.set_xlabel("seconds of training")
    left.set_ylabel("held-out nats per token (validation)")
    left.legend(framealpha=0.85, edgecolor="none", fontsize=8)
    for row in rows:
        colour, marker = style.get(row.name, (_GREY, "_"))
        spread = np.std(row.test, ddof=1) if len(row.test) > 1 else None
        right.errorbar(row.parameters, row.loss, spread, color=colour, marker=marker, capsize=3)
        right.annotate(
            row.name,
            (row.parameters, row.loss),
            (-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=colour,
        )
    right.set_xscale("log")
    low, high = right.get_xlim()
    right.set_xlim(low * (low / high) ** 0.6, high)  # room for the names
    right.set_xlabel("parameters")
    right.set_ylabel("held-out nats per token (test)")
    return figure


def plot_ladder(found: Comparison, *, ax: Axes | None = None) -> Axes:
    """Held-out loss of every model of a comparison as a bar, in the order they were trained.

    The best reading of each, on the test part, bars cut at twice the median. Beside each loss
    stands the change from the model before, and what is worse than that one is orange. Made for
    `minibrillm.judging.ablation.ablate`.
    """
    rows = found.best()
    ax = _axes(ax, 7.6, 0.3 * len(rows) + 0.8)
    losses = np.array([row.loss for row in rows])
    gains = np.diff(losses, prepend=losses[:1])
    top = min(losses.max(), 2 * np.median(losses))  # one that explodes would hide the rest
    colours = [_ORANGE if gain > 0 else _BLUE for gain in gains]
    ax.barh(range(len(rows)), np.minimum(losses, top), color=colours)
    for k, (loss, gain) in enumerate(zip(losses, gains, strict=True)):
        change = "" if k == 0 else f"  {gain:+.2f}"
        ax.text(min(loss, top), k, f" {loss:.2f}{change}", va="center", fontsize=8, color=_GREY)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.18 * top)
    ax.set_xlabel("held-out nats per token (test)")
    return ax


def plot_model(*, ax: Axes | None = None) -> Axes:
    """The whole model in one picture: four nodes, their edges, and the signal on its way."""
    from matplotlib.patches import Circle, Rectangle

    ax = _axes(ax, 8.4, 4.0)
    places = {"我": (0.0, 0.0), "爱": (2.7, 0.0)}
    answers = {"妈妈": (6.0, 1.25, 2.9), "你": (6.0, 0.0, 1.6), "雨": (6.0, -1.25, 0.7)}
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}

    def node(x: float, y: float, text: str, colour: str) -> None:
        ax.add_patch(Circle((x, y), 0.42, fc="white", ec=colour, lw=2, zorder=3))
        ax.text(x, y, text, ha="center", va="center", fontsize=13, zorder=4)

    def edge(a: tuple[float, float], b: tuple[float, float], colour: str, width: float) -> None:
        start, end = np.array(a), np.array(b)
        unit = (end - start) / np.hypot(*(end - start))
        ax.annotate(
            "",
            end - 0.46 * unit,
            start + 0.46 * unit,
            arrowprops={**arrow, "color": colour, "lw": width, "mutation_scale": 16},
        )

    for text, (x, y) in places.items():
        node(x, y, text, _BLUE)
    edge(places["我"], places["爱"], _BLUE, 2.4)
    ax.text(1.35, 0.16, "$s_0$", ha="center", fontsize=12, color=_BLUE)
    ax.text(2.7, -0.72, "$a_1$", ha="center", fontsize=12, color=_BLUE)
    for text, (x, y, loud) in answers.items():
        best = text == "妈妈"
        colour = _ORANGE if best else _GREY
        edge(places["爱"], (x, y), colour, 0.8 + loud * 0.7)
        node(x, y, text, colour)
        ax.add_patch(Rectangle((6.75, y - 0.14), 0.55 * loud, 0.28, color=colour, lw=0))
        ax.text(6.85 + 0.55 * loud, y, f"E = {loud}", va="center", fontsize=11, color=colour)
    ax.text(
        3.95,
        1.2,
        r"$y = \mathrm{gelu}(a_1 W + b)$" + "\n" + r"$E = \Vert y \Vert_2$",
        ha="center",
        va="bottom",
        fontsize=11,
    )
    ax.set_xlim(-0.6, 9.6)
    ax.set_ylim(-1.9, 2.1)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax
