"""What training reaches on small texts of many kinds."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

from minibrillm.bench.process import run_python
from minibrillm.bench.setting import Bench, Section
from minibrillm.bench.small_texts import MAKERS, small_text
from minibrillm.judging import number
from minibrillm.runs import kept_steps


def texts(bench: Bench) -> Section:
    """What `minibrillm train TEXT` reaches on small texts of many kinds, all in the same time."""
    minutes = str(bench.sizes.text_minutes)
    out = Section(
        f"small texts: nats per token held out, `minibrillm train TEXT --minutes {minutes}`",
        ("", "bytes", "n-gram", "windows", "stream", "lead", "step", ""),
    )
    leads = []
    with tempfile.TemporaryDirectory() as name:
        for k, kind in enumerate(bench.sizes.texts or tuple(MAKERS)):
            bench.note(f"texts: {kind}")
            file, run = Path(name) / f"{k}.txt", str(Path(name) / f"run{k}")
            file.write_text(small_text(kind), encoding="utf-8")
            train = ["train", str(file), "--minutes", minutes, "--out", run]
            run_python("-m", "minibrillm", *train)
            found = json.loads(run_python("-m", "minibrillm", "evaluate", run, "--json"))
            *_, ngram, windows, stream = (
                math.inf if s["nats_per_token"] is None else s["nats_per_token"]
                for s in found["scores"]
            )
            lead = ngram - min(windows, stream)
            leads.append(lead)
            step, _ = kept_steps(Path(run))
            verdict = found["verdict"]
            losses = [number(x) for x in (ngram, windows, stream)]
            size = f"{file.stat().st_size:,}"
            said = verdict.split(" by ")[0].split(":")[0]
            row = (kind, size, *losses, f"{lead:+.4f}", str(step), said)
            out.rows.append(row)
            out.figures |= {f"lead, {kind}": max(lead, -1e9), f"verdict, {kind}": verdict}
    ahead = sum(lead > 0 for lead in leads)
    out.notes.append(
        f"ahead of the best n-gram in {ahead} of {len(leads)}, at the worst {min(leads):+.4f}; the "
        "step is the one whose weights did best and are kept"
    )
    out.figures |= {"texts": len(leads), "texts_ahead": ahead, "texts_worst_lead": min(leads)}
    return out
