"""How the time for a token grows with each size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from minibrillm.bench.setting import Bench, Section
from minibrillm.bench.stand_ins import synthetic, walk
from minibrillm.bench.timing import alternate, fit_exponent, spread


def growth(bench: Bench) -> Section:
    """Time per token of forward and backward as one size grows, and the exponent that fits it."""
    sizes = bench.sizes
    out = Section(
        f"growth of the time for a token, forward and backward ({bench.threads} threads)",
        ("", "µs per token at each size", "exponent"),
    )
    positions = sizes.positions
    # By axis: its sizes, and for each of them edges, V, out-degree, d; edges a sequence; positions.
    Settings = tuple[tuple[str, int, int, int], int, int]
    axes: dict[str, tuple[Sequence[int], Callable[[int], Settings]]] = {
        "sequence_length": (sizes.lengths, lambda n: (("three_part", 64, 16, 32), n, positions)),
        "out_degree": (sizes.degrees, lambda k: (("shared", 128, k, 32), 64, positions)),
        "d": (sizes.widths, lambda d: (("shared", 64, 32, d), 64, positions)),
        "V": (sizes.vocabularies, lambda v: (("three_part", v, 8, 16), 64, positions // 4)),
    }
    for axis, (points, settings) in axes.items():
        bench.note(f"growth: {axis}")
        sides, read = {}, {}
        for point in points:
            shape, length, n = settings(point)
            model = synthetic(*shape)
            streams = max(1, n // length)
            tokens = walk(model.graph, streams, length, np.random.default_rng(0))
            sides[str(point)] = functools.partial(model.loss_and_gradients, tokens)
            read[point] = streams * length
        times = alternate(sides, sizes.repeats)
        per_token = {point: times[str(point)] / read[point] for point in points}
        for point, seconds in per_token.items():
            out.put(f"growth_{axis}_{point}_s_per_token", spread(seconds))
        rounds = zip(*per_token.values(), strict=True)
        exponent = out.put(
            f"growth_{axis}_exponent", spread(fit_exponent(points, r) for r in rounds)
        )
        shown = [f"{p:,}: {1e6 * np.median(s):.2f}" for p, s in per_token.items()]
        label, edges = axis.replace("_", " "), settings(points[0])[0][0].replace("_", "-")
        out.rows.append((f"{label} ({edges} edges)", "   ".join(shown), exponent.text(digits=2)))
    return out
