"""Tokens a second when it writes, after contexts of several lengths."""

from __future__ import annotations

import numpy as np

from minibrillm.bench.pytorch import NotAvailable, agree, rivals
from minibrillm.bench.setting import Bench, Section
from minibrillm.bench.timing import REST, Side, alternate, spread
from minibrillm.checks import UserError
from minibrillm.memory import State
from minibrillm.model import BriLLM

Array = np.ndarray


def generation(bench: Bench) -> Section:
    """Greedy tokens a second after contexts of several lengths, beside a decoder that sums anew."""
    sizes = bench.sizes
    out = Section(
        f"generation, greedy, one stream ({bench.threads} threads)",
        ("context", "ours, tokens/s", "PyTorch, the past summed anew", "ours is faster by"),
    )
    trainer = bench.trainer()
    model, ids = trainer.model, np.resize(trainer.windows.ids, max(sizes.contexts) + 1)
    states = {}
    for context in sizes.contexts:
        bench.note(f"generation: reading {context:,} tokens")
        states[context] = model.read(ids[:context])
    times = alternate({str(c): _write(model, s) for c, s in states.items()}, sizes.generated)
    for context, state in states.items():
        rate = out.put(f"generation_tokens_per_s_{context}", spread(1 / times[str(context)]))
        shown = ["", ""]
        try:
            decoder = _decoder(bench, model, ids[: context + 1], state)
            sides = {"ours": _write(model, state), "theirs": decoder}
            in_a_row = {name: _repeat(side, sizes.decoded) for name, side in sides.items()}
            t = alternate(in_a_row, sizes.repeats, REST)
            each = spread(sizes.decoded / t["theirs"])
            theirs = out.put(f"decoder_tokens_per_s_{context}", each)
            faster = out.put(f"speedup_over_decoder_{context}", spread(t["theirs"] / t["ours"]))
            shown = [theirs.text(), faster.text(digits=2)]
        except NotAvailable as reason:
            out.notes.append(f"not available: PyTorch at context {context:,}: {reason}")
        out.rows.append((f"{context:,}", rate.text(digits=0), *shown))
    for context in sizes.contexts[1:]:
        slower = spread(times[str(context)] / times[str(sizes.contexts[0])])
        name = "100k" if context == 100_000 else str(context)
        out.put(f"generation_slowdown_{name}", slower)
        out.notes.append(
            f"a token after {context:,} takes {slower.text(digits=3)} times as long as one after "
            f"{sizes.contexts[0]:,} ({sizes.generated} of each, in turns)"
        )
    return out


def _repeat(side: Side, times: int) -> Side:
    def run() -> None:
        for _ in range(times):
            side()

    return run


def _write(model: BriLLM, state: State) -> Side:
    """One step of greedy decoding, always from the same state: the context stays as long."""

    def step() -> None:
        token = int(model.next_logits(state).argmax())
        model.read(np.array([token]), state)

    return step


def _decoder(bench: Bench, model: BriLLM, ids: Array, state: State) -> Side:
    """A step of `rivals.PerStepDecoder`, once both agree on the loudest answer's logit.

    Its context grows a little as it writes; ours stays as it is.
    """
    try:
        decoder = rivals(bench).PerStepDecoder(model)
        decoder.read(ids[:-1])
    except (UserError, MemoryError, RuntimeError) as error:
        raise NotAvailable(str(error) or "not enough memory") from None
    logits = np.asarray(decoder.step(int(ids[-1])))
    ours = model.next_logits(model.read(ids[-1:], state))
    agree(f"the loudest logit of PyTorch after {len(ids)} tokens", ours.max(), logits.max())
    token = int(logits.argmax())

    def step() -> None:
        nonlocal token
        token = int(np.asarray(decoder.step(token)).argmax())

    return step
